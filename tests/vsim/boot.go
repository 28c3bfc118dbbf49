package main

import (
	"bytes"
	"encoding/binary"
	"time"

	"github.com/vmware/govmomi/simulator"
)

// No processor runs in here, so the one program that a VM may boot into is known by its beginning, and what it does is
// done for it: it writes 64 sectors at each place of a table in its sector, and switches the VM off.
const (
	bootSignature = "\xfa\x31\xc0\x8e\xd8\x8e\xc0\x8e\xd0\xbc\x00\x7c"
	placesAt      = 0x5d
	bootsFor      = 200 * time.Millisecond
)

// boot runs the program of the VM's first disk, if it is that one.
func (v *vcenter) boot(vm *simulator.VirtualMachine) {
	disks := disksOf(vm.Config.Hardware.Device)
	if len(disks) == 0 {
		return
	}
	key := disks[0].Key
	first, err := guestReads(vm, key, 0, sector)
	if err != nil || !bytes.HasPrefix(first, []byte(bootSignature)) || !bytes.HasSuffix(first, []byte{0x55, 0xaa}) {
		return
	}
	for at := placesAt; ; at += 4 {
		place := int64(binary.LittleEndian.Uint32(first[at:]))
		if place == 0 {
			break
		}
		if err := v.guestWrites(vm, key, place*sector, bytes.Repeat([]byte{0xa5}, 64*sector)); err != nil {
			return
		}
	}
	time.AfterFunc(bootsFor, func() { v.goOff(vm) })
}
