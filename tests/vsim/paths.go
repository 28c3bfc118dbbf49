package main

import (
	"path"
	"strings"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

type reference = types.ManagedObjectReference

// datacenter is the inventory's only one, kept here because finding it means walking every object there is.
var datacenter *simulator.Datacenter

func findDatastore(name string) *simulator.Datastore {
	ds, _ := simulator.Map.FindByName(name, datacenter.Datastore).(*simulator.Datastore)
	return ds
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

// disksOf lists the disks that are files with descriptors; raw devices are left as the stock simulator has them.
func disksOf(devices []types.BaseVirtualDevice) (found []*types.VirtualDisk) {
	for _, device := range devices {
		if disk, ok := device.(*types.VirtualDisk); ok {
			if _, ok := disk.Backing.(*backingInfo); ok {
				found = append(found, disk)
			}
		}
	}
	return found
}

// independent disks take no part in snapshots.
func independent(disk *types.VirtualDisk) bool {
	return strings.HasPrefix(backingOf(disk).DiskMode, "independent")
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
