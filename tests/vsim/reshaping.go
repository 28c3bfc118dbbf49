package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// What administrators do to a VM and its disks while nobody thinks of backups.

// reshape carries such a command out, in the same way as a client's reconfiguration.
func (v *vcenter) reshape(vm *simulator.VirtualMachine, c *command) (interface{}, error) {
	switch c.Do {
	case "grains":
		return grainsTold(vm, c)
	case "rename":
		return answer{}, v.reconfigure(vm, types.VirtualMachineConfigSpec{Name: c.Name})
	case "add_disk":
		disk := newDisk(1000, int32(c.Number), c.Length/1024, "["+c.Datastore+"]")
		return answer{}, v.changeDevices(vm, addDevice(disk, types.VirtualDeviceConfigSpecFileOperationCreate))
	}
	disk := diskByKey(vm.Config.Hardware.Device, c.Key)
	if disk == nil {
		return nil, fmt.Errorf("%s has no disk %d for %s", vm.Name, c.Key, c.Do)
	}
	switch c.Do {
	case "detach_disk":
		return answer{}, v.changeDevices(vm, removeDevice(disk))
	case "move_disk": // its file is detached, and attached at another unit
		if err := v.changeDevices(vm, removeDevice(disk)); err != nil {
			return nil, err
		}
		moved := newDisk(1000, int32(c.Number), disk.CapacityInKB, "")
		moved.Backing = backingOf(disk)
		return answer{}, v.changeDevices(vm, addDevice(moved, ""))
	case "grow_disk":
		if vm.Snapshot != nil {
			return nil, errors.New("a disk with snapshots does not grow")
		}
		grown := *disk
		grown.CapacityInKB, grown.CapacityInBytes = c.Length/1024, c.Length
		edit := &types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationEdit, Device: &grown}
		return answer{}, v.changeDevices(vm, edit)
	}
	return nil, errors.New("no such command: " + c.Do)
}

func removeDevice(disk *types.VirtualDisk) *types.VirtualDeviceConfigSpec {
	return &types.VirtualDeviceConfigSpec{Operation: types.VirtualDeviceConfigSpecOperationRemove, Device: disk}
}

func (v *vcenter) changeDevices(vm *simulator.VirtualMachine, change types.BaseVirtualDeviceConfigSpec) error {
	return v.reconfigure(vm, types.VirtualMachineConfigSpec{DeviceChange: []types.BaseVirtualDeviceConfigSpec{change}})
}

func (v *vcenter) reconfigure(vm *simulator.VirtualMachine, spec types.VirtualMachineConfigSpec) error {
	_, err := v.direct(vm.Self, &types.ReconfigVM_Task{This: vm.Self, Spec: spec})
	return err
}

// grainsTold is the digest of each grain of every disk, by the disk's UUID: as the guest sees it now, or as a snapshot
// keeps it.
func grainsTold(vm *simulator.VirtualMachine, c *command) (interface{}, error) {
	devices := vm.Config.Hardware.Device
	if c.Snapshot != "" {
		snapshot := findSnapshot(reference{Type: "VirtualMachineSnapshot", Value: c.Snapshot})
		if snapshot == nil {
			return nil, errors.New("no such snapshot: " + c.Snapshot)
		}
		devices = snapshot.Config.Hardware.Device
	}
	told := answer{}
	for _, disk := range disksOf(devices) {
		digests, err := digestsOf(disk)
		if err != nil {
			return nil, err
		}
		told[backingOf(disk).Uuid] = digests
	}
	return told, nil
}

func digestsOf(disk *types.VirtualDisk) (digests []string, err error) {
	size, names := disk.CapacityInKB*1024, linksOf(backingOf(disk))
	for at := int64(0); at < size; at += 1 << grainBits {
		data, err := readChain(names, at, min64(1<<grainBits, size-at))
		if err != nil {
			return nil, err
		}
		digest := sha256.Sum256(data)
		digests = append(digests, hex.EncodeToString(digest[:]))
	}
	return digests, nil
}
