package main

import (
	"errors"
	"fmt"

	"github.com/vmware/govmomi/simulator"
)

// guestWrites does what the VM's guest does when it writes: the disk changes, and an active tracker notes it.
func (v *vcenter) guestWrites(vm *simulator.VirtualMachine, key int32, offset int64, data []byte) error {
	disk := diskByKey(vm.Config.Hardware.Device, key)
	if disk == nil {
		return fmt.Errorf("%s has no disk %d", vm.Name, key)
	}
	if offset < 0 || offset+int64(len(data)) > disk.CapacityInKB*1024 {
		return errors.New("a write beyond the end of the disk")
	}
	if err := guestWrite(linksOf(backingOf(disk)), data, offset); err != nil {
		return err
	}
	if t := v.trackers[backingOf(disk).Uuid]; t != nil {
		t.writes = append(t.writes, trackedWrite{t.epoch, span{offset, int64(len(data))}})
	}
	return nil
}

// guestReads is the range as the VM's guest sees it now.
func guestReads(vm *simulator.VirtualMachine, key int32, offset, length int64) ([]byte, error) {
	disk := diskByKey(vm.Config.Hardware.Device, key)
	if disk == nil {
		return nil, fmt.Errorf("%s has no disk %d", vm.Name, key)
	}
	first := offset / sector * sector
	last := min64((offset+length+sector-1)/sector*sector, disk.CapacityInKB*1024)
	if offset < 0 || length < 0 || offset+length > last {
		return nil, errors.New("a read beyond the end of the disk")
	}
	whole, err := readChain(linksOf(backingOf(disk)), first, last-first)
	if err != nil {
		return nil, err
	}
	return whole[offset-first : offset-first+length], nil
}
