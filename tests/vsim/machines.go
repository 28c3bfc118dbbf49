package main

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"

	"github.com/google/uuid"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

type followUp func(*simulator.Task) error

// prepare looks at a call before it goes on: it may refuse it, and returns what to do once the stock simulator has done
// its part, or nil.
func (v *vcenter) prepare(q *request) (followUp, types.BaseMethodFault) {
	vm := findVM(q.this.Value)
	if q.owner != nil {
		vm = findVM(q.owner.Value)
	}
	switch args := q.args.(type) {
	case *types.CreateVM_Task:
		setAsideNVRAM(q, args.Config)
		return func(task *simulator.Task) error { return v.created(task, args.Config) }, missingDisk(args.Config.DeviceChange)
	case *types.RegisterVM_Task:
		provideForRegister(args)
		return func(task *simulator.Task) error { return v.registered(task, args.Name == "") }, nil
	case *types.DeleteDatastoreFile_Task:
		return nil, v.refuseLocked(args.Name)
	case *types.MoveDatastoreFile_Task:
		return nil, v.refuseLocked(args.SourceName)
	}
	if vm == nil {
		return nil, nil
	}
	switch args := q.args.(type) {
	case *types.CreateSnapshot_Task:
		return v.snapshotting(vm, q), nil
	case *types.CreateSnapshotEx_Task:
		return v.snapshotting(vm, q), v.quiescing.refuse(args.QuiesceSpec)
	case *types.RemoveSnapshot_Task:
		return v.removing(vm, q.this, args.RemoveChildren, args.Consolidate), nil
	case *types.RemoveAllSnapshots_Task:
		before := graphOf(vm).known
		return func(*simulator.Task) error { return v.afterRemoval(vm, before, args.Consolidate) }, nil
	case *types.RevertToSnapshot_Task:
		return func(*simulator.Task) error { return v.reverted(vm, q.this) }, nil
	case *types.RevertToCurrentSnapshot_Task:
		return func(*simulator.Task) error { return v.reverted(vm, *vm.Snapshot.CurrentSnapshot) }, nil
	case *types.ReconfigVM_Task:
		return func(*simulator.Task) error { return v.reconfigured(vm) }, missingDisk(args.Spec.DeviceChange)
	case *types.PowerOnVM_Task:
		return func(*simulator.Task) error { v.poweredOn(vm); return nil }, nil
	case *types.RelocateVM_Task:
		return func(*simulator.Task) error { return v.relocated(vm, args.Spec.Datastore) }, nil
	case *types.CloneVM_Task:
		return v.cloning(vm), nil
	}
	return nil, nil
}

// missingDisk refuses a disk that is to be attached as it is, when it is not there or is no disk.
func missingDisk(changes []types.BaseVirtualDeviceConfigSpec) types.BaseMethodFault {
	for _, change := range changes {
		spec := change.GetVirtualDeviceConfigSpec()
		disk, ok := spec.Device.(*types.VirtualDisk)
		if !ok || spec.Operation != types.VirtualDeviceConfigSpecOperationAdd || spec.FileOperation != "" {
			continue
		}
		backing, ok := disk.Backing.(*backingInfo)
		if !ok {
			continue
		}
		err := checkDisk(localPath(backing.FileName))
		switch {
		case errors.Is(err, os.ErrNotExist):
			return &types.FileNotFound{FileFault: types.FileFault{File: backing.FileName}}
		case err != nil:
			return &types.InvalidDeviceBacking{}
		}
	}
	return nil
}

// checkDisk looks at a descriptor and its extent as a host does before it attaches the disk.
func checkDisk(file string) error {
	d, err := readDescriptor(file)
	if err != nil {
		return err
	}
	extent, err := os.Stat(d.extentPath(file))
	switch {
	case err != nil:
		return err
	case d.isDelta():
		return withCOWD(d.extentPath(file), os.O_RDONLY, func(*cowd) error { return nil })
	case d.createType != "vmfs" || d.extentKind != "VMFS":
		return fmt.Errorf("%s: a host does not attach a disk of type %s", file, d.createType)
	case extent.Size() != d.sectors*sector:
		return fmt.Errorf("%s has %d bytes, and its descriptor says %d", d.extentFile, extent.Size(), d.sectors*sector)
	}
	return nil
}

// setAsideNVRAM hides an NVRAM that a restore has put there already: the stock simulator would refuse to make its own.
func setAsideNVRAM(q *request, spec types.VirtualMachineConfigSpec) {
	if spec.Files == nil || path.Ext(spec.Files.VmPathName) != ".vmx" {
		return
	}
	file := path.Join(path.Dir(localPath(spec.Files.VmPathName)), spec.Name+".nvram")
	if os.Rename(file, file+"~") == nil {
		q.putBack = func() { os.Rename(file+"~", file) }
	}
}

// provideForRegister makes the log and the NVRAM that the stock simulator wants to see beside a .vmx. A host does not.
func provideForRegister(args *types.RegisterVM_Task) {
	vmx := localPath(args.Path)
	if _, err := os.Stat(vmx); err != nil {
		return
	}
	name := args.Name
	if name == "" {
		name = baseName(path.Dir(vmx))
	}
	for _, wanted := range []string{"vmware.log", name + ".nvram"} {
		if f, err := os.OpenFile(path.Join(path.Dir(vmx), wanted), os.O_CREATE|os.O_RDONLY, 0o600); err == nil {
			f.Close()
		}
	}
}

func (v *vcenter) created(task *simulator.Task, spec types.VirtualMachineConfigSpec) error {
	vm := findVM(task.Info.Result.(reference).Value)
	given := types.VirtualMachineConfigSpec{InstanceUuid: spec.InstanceUuid, Uuid: spec.Uuid}
	if given.InstanceUuid == "" { // the stock simulator derives both from the path, so that a VM made anew is the old one
		given.InstanceUuid = uuid.NewString()
	}
	if given.Uuid == "" {
		given.Uuid = uuid.NewString()
	}
	simulator.Map.WithLock(vm, func() {
		vm.Config.InstanceUuid, vm.Summary.Config.InstanceUuid = given.InstanceUuid, given.InstanceUuid
		vm.Config.Uuid, vm.Summary.Config.Uuid = given.Uuid, given.Uuid
	})
	return v.reconfigured(vm)
}

// reconfigured takes on the disks that are new, and brings the files of the VM up to date.
func (v *vcenter) reconfigured(vm *simulator.VirtualMachine) error {
	simulator.Map.WithLock(vm, func() {
		vm.Capability.ChangeTrackingSupported = types.NewBool(hardwareOf(vm) >= 7)
	})
	if err := adoptDisks(vm); err != nil {
		return err
	}
	v.forgetTracking(vm)
	return storeFiles(vm)
}

func hardwareOf(vm *simulator.VirtualMachine) int {
	version, _ := strconv.Atoi(strings.TrimPrefix(vm.Config.Version, "vmx-"))
	return version
}

// adoptDisks makes real disks of those that the stock simulator only put into the list: a descriptor, an extent of the
// right size, a UUID. Of a disk that was there before, size and UUID are taken from its descriptor.
func adoptDisks(vm *simulator.VirtualMachine) error {
	devices := append([]types.BaseVirtualDevice{}, vm.Config.Hardware.Device...)
	for i, device := range devices {
		disk, ok := device.(*types.VirtualDisk)
		if !ok || len(disksOf(devices[i:i+1])) == 0 {
			continue
		}
		adopted := *disk
		backing := *backingOf(disk)
		adopted.Backing = &backing
		if err := adopt(&adopted, &backing); err != nil {
			return err
		}
		devices[i] = &adopted
	}
	setDevices(vm, devices)
	return nil
}

func adopt(disk *types.VirtualDisk, backing *backingInfo) error {
	file := localPath(backing.FileName)
	if disk.CapacityInKB == 0 {
		disk.CapacityInKB = disk.CapacityInBytes / 1024
	}
	d, err := readDescriptor(file)
	if err != nil { // the stock simulator made the files, empty
		extent := strings.TrimSuffix(baseName(backing.FileName), ".vmdk") + "-flat.vmdk"
		d = &descriptor{cid: newCID(), parentCID: noParent, createType: "vmfs", extentKind: "VMFS", extentFile: extent, uuid: backing.Uuid}
	}
	before := *d
	grown := backing.Uuid != "" && backing.Parent == nil && disk.CapacityInKB*2 > d.sectors
	if d.sectors == 0 || grown {
		d.sectors = disk.CapacityInKB * 2
		if err := os.Truncate(d.extentPath(file), d.sectors*sector); err != nil {
			return err
		}
	}
	if d.uuid == "" && !d.isDelta() {
		d.uuid = newDiskUUID()
	}
	if backing.Uuid == "" {
		backing.Uuid = d.uuid
	}
	disk.CapacityInKB, disk.CapacityInBytes = d.sectors/2, d.sectors*sector
	if err == nil && (*d == before || d.isDelta()) {
		return nil
	}
	return d.write(file)
}

func addDevice(device types.BaseVirtualDevice, file types.VirtualDeviceConfigSpecFileOperation) *types.VirtualDeviceConfigSpec {
	return &types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationAdd, Device: device, FileOperation: file}
}

func newDisk(controller, unit int32, capacityKB int64, file string) *types.VirtualDisk {
	disk := &types.VirtualDisk{CapacityInKB: capacityKB}
	disk.Key, disk.ControllerKey, disk.UnitNumber = 2000+unit, controller, &unit
	disk.Backing = &backingInfo{
		VirtualDeviceFileBackingInfo: types.VirtualDeviceFileBackingInfo{FileName: file},
		DiskMode:                     string(types.VirtualDiskModePersistent),
		ThinProvisioned:              types.NewBool(true),
	}
	return disk
}

// cloning keeps the clone's disks apart from the source's: the stock simulator hands the very same objects to both.
func (v *vcenter) cloning(source *simulator.VirtualMachine) followUp {
	saved, _ := withBackings(source.Config.Hardware.Device, func(disk *types.VirtualDisk) (*backingInfo, error) {
		kept := *backingOf(disk)
		return &kept, nil
	})
	return func(task *simulator.Task) error {
		setDevices(source, saved)
		clone := findVM(task.Info.Result.(reference).Value)
		own, _ := withBackings(clone.Config.Hardware.Device, func(disk *types.VirtualDisk) (*backingInfo, error) {
			kept := *backingOf(disk)
			kept.Uuid, kept.ChangeId, kept.Parent = "", "", nil
			return &kept, nil
		})
		setDevices(clone, own)
		if err := v.created(task, types.VirtualMachineConfigSpec{}); err != nil {
			return err
		}
		return copyDisks(saved, clone.Config.Hardware.Device)
	}
}

func copyDisks(from, to []types.BaseVirtualDevice) error {
	targets := disksOf(to)
	for i, disk := range disksOf(from) {
		names := linksOf(backingOf(disk))
		held, err := allocatedIn(names)
		if err != nil {
			return err
		}
		for _, one := range held {
			data, err := readChain(names, one.start, one.length)
			if err != nil {
				return err
			}
			if err := writeLink(backingOf(targets[i]).FileName, data, one.start); err != nil {
				return err
			}
		}
	}
	return nil
}
