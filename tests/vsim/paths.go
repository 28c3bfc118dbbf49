package main

import (
	"path"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

func findDatastore(name string) *simulator.Datastore {
	for _, entity := range simulator.Map.All("Datastore") {
		if ds := entity.(*simulator.Datastore); ds.Name == name {
			return ds
		}
	}
	return nil
}

// localPath maps "[DS] a/b" to the file that stands for it here, "" when there is no such datastore.
func localPath(name string) string {
	var p object.DatastorePath
	p.FromString(name)
	if ds := findDatastore(p.Datastore); ds != nil {
		return path.Join(ds.Info.GetDatastoreInfo().Url, p.Path)
	}
	return ""
}

func findVM(moref string) *simulator.VirtualMachine {
	vm, _ := simulator.Map.Get(types.ManagedObjectReference{Type: "VirtualMachine", Value: moref}).(*simulator.VirtualMachine)
	return vm
}

func disksOf(devices []types.BaseVirtualDevice) (found []*types.VirtualDisk) {
	for _, device := range devices {
		if disk, ok := device.(*types.VirtualDisk); ok {
			found = append(found, disk)
		}
	}
	return found
}

func diskByKey(devices []types.BaseVirtualDevice, key int32) *types.VirtualDisk {
	for _, disk := range disksOf(devices) {
		if disk.Key == key {
			return disk
		}
	}
	return nil
}

func backingOf(disk *types.VirtualDisk) *backingInfo {
	return disk.Backing.(*types.VirtualDiskFlatVer2BackingInfo)
}

func baseName(name string) string { return path.Base(name) }
