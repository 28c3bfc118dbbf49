package main

import (
	"context"
	"errors"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"
)

func (v *vcenter) createVM(c *command) (interface{}, error) {
	pool, err := v.findPool(c.Pool)
	if err != nil {
		return nil, err
	}
	folder := v.findFolder(c.Folder)
	if folder == nil {
		return nil, errors.New("no such VM folder: " + c.Folder)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	spec := types.VirtualMachineConfigSpec{
		Name: c.Name, GuestId: c.GuestID, MemoryMB: c.MemoryMB, NumCPUs: c.CPUs, Firmware: c.Firmware, Version: c.Hardware,
		Files:                 &types.VirtualMachineFileInfo{VmPathName: "[" + c.Datastore + "]"},
		ChangeTrackingEnabled: types.NewBool(c.Tracking),
	}
	controller := &types.ParaVirtualSCSIController{}
	controller.Key, controller.SharedBus = 1000, types.VirtualSCSISharing(c.SharedBus)
	spec.DeviceChange = append(spec.DeviceChange, addDevice(controller, ""))
	for i, want := range c.Disks {
		unit := int32(i)
		if unit >= 7 { // 7 is the controller's own
			unit++
		}
		if want.Unit != nil {
			unit = *want.Unit
		}
		disk := newDisk(1000, unit, want.SizeBytes/1024, "")
		backingOf(disk).FileName = "[" + c.Datastore + "]"
		if want.Mode != "" {
			backingOf(disk).DiskMode = want.Mode
		}
		backingOf(disk).Sharing = want.Sharing
		spec.DeviceChange = append(spec.DeviceChange, addDevice(disk, types.VirtualDeviceConfigSpecFileOperationCreate))
	}
	result, err := v.direct(folder.Self, &types.CreateVM_Task{This: folder.Self, Config: spec, Pool: pool})
	if err != nil {
		return nil, err
	}
	vm := findVM(result.(reference).Value)
	if c.Flag {
		if _, err := v.direct(vm.Self, &types.PowerOnVM_Task{This: vm.Self}); err != nil {
			return nil, err
		}
	}
	return answer{"vm": vm.Self.Value, "disks": disksTold(vm)}, nil
}

func defaultPool() reference {
	for _, entity := range simulator.Map.All("ClusterComputeResource") {
		return *entity.(*simulator.ClusterComputeResource).ResourcePool
	}
	panic("no cluster")
}

func (v *vcenter) findFolder(name string) *simulator.Folder {
	root := simulator.Map.Get(datacenter.VmFolder).(*simulator.Folder)
	if name == "" {
		return root
	}
	for _, ref := range root.ChildEntity {
		if folder, ok := simulator.Map.Get(ref).(*simulator.Folder); ok && folder.Name == name {
			return folder
		}
	}
	request := types.CreateFolder{This: root.Self, Name: name}
	reply := methods.CreateFolderBody{}
	if v.service.RoundTrip(context.Background(), &methods.CreateFolderBody{Req: &request}, &reply) != nil {
		return nil
	}
	return simulator.Map.Get(reply.Res.Returnval).(*simulator.Folder)
}

func setFreeSpace(c *command) (interface{}, error) {
	ds := findDatastore(c.Datastore)
	if ds == nil {
		return nil, errors.New("no such datastore: " + c.Datastore)
	}
	simulator.Map.WithLock(ds, func() {
		simulator.Map.Update(ds, []types.PropertyChange{
			{Name: "summary.freeSpace", Val: c.Length},
			{Name: "summary.capacity", Val: c.Offset},
		})
		ds.Info.GetDatastoreInfo().FreeSpace = c.Length
	})
	return answer{}, nil
}

func setTools(vm *simulator.VirtualMachine, running bool) {
	status, state := types.VirtualMachineToolsStatusToolsNotRunning, types.VirtualMachineToolsRunningStatusGuestToolsNotRunning
	if running {
		status, state = types.VirtualMachineToolsStatusToolsOk, types.VirtualMachineToolsRunningStatusGuestToolsRunning
	}
	simulator.Map.WithLock(vm, func() {
		simulator.Map.Update(vm, []types.PropertyChange{
			{Name: "guest.toolsStatus", Val: status},
			{Name: "guest.toolsRunningStatus", Val: string(state)},
			{Name: "summary.guest.toolsStatus", Val: status},
			{Name: "summary.guest.toolsRunningStatus", Val: string(state)},
		})
	})
}
