package main

import (
	"os"
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// chainFile marks the files of disks' chains, which are listed anew each time, apart from those of the stock simulator.
const chainFile = "vsim:chain"

// refreshLayouts brings layoutEx up to date for the VMs whose layout is asked for: a host looks at the files' sizes, too.
func refreshLayouts(args *types.RetrievePropertiesEx) {
	for _, spec := range args.SpecSet {
		if !asksForLayout(spec.PropSet) {
			continue
		}
		for _, object := range spec.ObjectSet {
			if vm := findVM(object.Obj.Value); vm != nil {
				refreshLayout(vm)
			}
		}
	}
}

func asksForLayout(props []types.PropertySpec) bool {
	for _, prop := range props {
		for _, asked := range prop.PathSet {
			if strings.HasPrefix(asked, "layoutEx") {
				return true
			}
		}
	}
	return false
}

// refreshLayout lists each disk's chain, the base first and the file that is written to last.
func refreshLayout(vm *simulator.VirtualMachine) {
	simulator.Map.WithLock(vm, func() {
		var files []types.VirtualMachineFileLayoutExFileInfo
		key := int32(0) // no file has the key of another: with a snapshot go the files of its keys
		for _, file := range vm.LayoutEx.File {
			if file.BackingObjectId != chainFile {
				files = append(files, file)
			}
			if file.Key > key {
				key = file.Key
			}
		}
		var disks []types.VirtualMachineFileLayoutExDiskLayout
		for _, disk := range disksOf(vm.Config.Hardware.Device) {
			layout := types.VirtualMachineFileLayoutExDiskLayout{Key: disk.Key}
			links := linksOf(backingOf(disk))
			for i := len(links) - 1; i >= 0; i-- {
				key++
				files = append(files, types.VirtualMachineFileLayoutExFileInfo{
					Key: key, BackingObjectId: chainFile, Name: links[i], Type: "diskExtent", Size: bytesOnDisk(links[i]),
				})
				layout.Chain = append(layout.Chain, types.VirtualMachineFileLayoutExDiskUnit{FileKey: []int32{key}})
			}
			disks = append(disks, layout)
		}
		vm.LayoutEx.File, vm.LayoutEx.Disk = files, disks
	})
}

// bytesOnDisk is the size of a disk's extent, named by its descriptor.
func bytesOnDisk(name string) int64 {
	file := localPath(name)
	if d, err := readDescriptor(file); err == nil && d.extentPath(file) != "" {
		file = d.extentPath(file)
	}
	info, err := os.Stat(file)
	if err != nil {
		return 0
	}
	return info.Size()
}
