package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

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
	vm := findVM(task.Info.Result.(reference).Value)
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
