package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"

	"github.com/google/uuid"
	"github.com/vmware/govmomi/object"
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
	case *types.CreateSnapshot_Task, *types.CreateSnapshotEx_Task:
		return func(task *simulator.Task) error { return v.snapshotCreated(vm, task.Info.Result.(morefT)) }, nil
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
		return func(*simulator.Task) error { v.stun(vm); return nil }, nil
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
	vm := findVM(task.Info.Result.(morefT).Value)
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

// storeFiles writes the .vmx and, once, an NVRAM: what a backup saves beside the disks.
func storeFiles(vm *simulator.VirtualMachine) error {
	file := localPath(vm.Config.Files.VmPathName)
	nvram := strings.TrimSuffix(file, ".vmx") + ".nvram"
	if info, err := os.Stat(nvram); err != nil || info.Size() == 0 {
		content := make([]byte, 8684)
		_, _ = rand.Read(content[512:])
		copy(content, "MRVN")
		if err := os.WriteFile(nvram, content, 0o600); err != nil {
			return err
		}
	}
	return os.WriteFile(file, []byte(vmxText(vm, baseName(nvram))), 0o600)
}

func vmxText(vm *simulator.VirtualMachine, nvram string) string {
	var out strings.Builder
	put := func(key, value string) { fmt.Fprintf(&out, "%s = \"%s\"\n", key, value) }
	put(".encoding", "UTF-8")
	put("config.version", "8")
	put("virtualHW.version", strings.TrimLeft(strings.TrimPrefix(vm.Config.Version, "vmx-"), "0"))
	put("displayName", vm.Config.Name)
	put("guestOS", vm.Config.GuestId)
	put("firmware", vm.Config.Firmware)
	put("nvram", nvram)
	put("memSize", strconv.Itoa(int(vm.Config.Hardware.MemoryMB)))
	put("numvcpus", strconv.Itoa(int(vm.Config.Hardware.NumCPU)))
	put("uuid.bios", vm.Config.Uuid)
	put("vc.uuid", vm.Config.InstanceUuid)
	put("ctkEnabled", strings.ToUpper(strconv.FormatBool(trackingSwitchedOn(vm))))
	for _, slot := range slotsOf(vm) {
		name := slot.name
		put(name+".present", "TRUE")
		put(name+".deviceType", "scsi-hardDisk")
		if path.Dir(slot.file) == path.Dir(vm.Config.Files.VmPathName) {
			put(name+".fileName", baseName(slot.file))
		} else {
			put(name+".fileName", localPath(slot.file))
		}
	}
	return out.String()
}

type slot struct{ name, file string }

func slotsOf(vm *simulator.VirtualMachine) (slots []slot) {
	list := object.VirtualDeviceList(vm.Config.Hardware.Device)
	for _, disk := range disksOf(vm.Config.Hardware.Device) {
		bus, prefix := int32(0), "scsi"
		if controller := list.FindByKey(disk.ControllerKey); controller != nil {
			if c, ok := controller.(types.BaseVirtualController); ok {
				bus = c.GetVirtualController().BusNumber
			}
			if _, ok := controller.(*types.VirtualIDEController); ok {
				prefix = "ide"
			}
		}
		unit := int32(0)
		if disk.UnitNumber != nil {
			unit = *disk.UnitNumber
		}
		slots = append(slots, slot{fmt.Sprintf("%s%d:%d", prefix, bus, unit), backingOf(disk).FileName})
	}
	return slots
}

// registered gives a VM made from a .vmx what that says: the stock simulator does not read it.
func (v *vcenter) registered(task *simulator.Task, nameIt bool) error {
	vm := findVM(task.Info.Result.(morefT).Value)
	text, err := os.ReadFile(localPath(vm.Config.Files.VmPathName))
	if err != nil {
		return err
	}
	said := map[string]string{}
	for _, line := range strings.Split(string(text), "\n") {
		if key, value, ok := strings.Cut(line, "="); ok {
			said[strings.TrimSpace(key)] = strings.Trim(strings.TrimSpace(value), `"`)
		}
	}
	memory, _ := strconv.ParseInt(said["memSize"], 10, 64)
	cpus, _ := strconv.Atoi(said["numvcpus"])
	spec := types.VirtualMachineConfigSpec{
		MemoryMB: memory, NumCPUs: int32(cpus), GuestId: said["guestOS"], Firmware: said["firmware"],
		Uuid: said["uuid.bios"], InstanceUuid: said["vc.uuid"],
	}
	if nameIt {
		spec.Name = said["displayName"]
	}
	controller := &types.VirtualLsiLogicController{}
	controller.Key, controller.SharedBus = 1000, types.VirtualSCSISharingNoSharing
	spec.DeviceChange = append(spec.DeviceChange, addDevice(controller, ""))
	for unit := int32(0); unit < 16; unit++ {
		name := said[fmt.Sprintf("scsi0:%d.fileName", unit)]
		if name == "" {
			continue
		}
		file := object.DatastorePath{}
		file.FromString(vm.Config.Files.VmPathName)
		file.Path = path.Join(path.Dir(file.Path), name)
		spec.DeviceChange = append(spec.DeviceChange, addDevice(newDisk(1000, unit, 0, file.String()), ""))
	}
	if fault := missingDisk(spec.DeviceChange); fault != nil {
		return errors.New(describe(fault))
	}
	_, err = v.direct(vm.Self, &types.ReconfigVM_Task{This: vm.Self, Spec: spec})
	return err
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
		clone := findVM(task.Info.Result.(morefT).Value)
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
