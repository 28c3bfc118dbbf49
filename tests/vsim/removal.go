package main

import (
	"net/http"
	"os"
	"path"
	"strings"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

func (v *vcenter) removing(vm *simulator.VirtualMachine, ref morefT, children bool, consolidate *bool) followUp {
	before := graphOf(vm).known
	var below []morefT
	walkTree(vm.Snapshot.RootSnapshotList, func(node types.VirtualMachineSnapshotTree) {
		if node.Snapshot == ref {
			walkTree(node.ChildSnapshotList, func(child types.VirtualMachineSnapshotTree) { below = append(below, child.Snapshot) })
		}
	})
	files := stateFiles(vm, below)
	return func(*simulator.Task) error {
		if children { // the stock simulator takes them out of the tree, and leaves the objects and their files
			for _, child := range below {
				simulator.Map.Remove(child)
			}
			for _, file := range files {
				os.Remove(file)
			}
		}
		return v.afterRemoval(vm, before, consolidate)
	}
}

// stateFiles are the .vmsn files of these snapshots.
func stateFiles(vm *simulator.VirtualMachine, snapshots []morefT) (files []string) {
	for _, snapshot := range snapshots {
		for _, layout := range vm.LayoutEx.Snapshot {
			for _, file := range vm.LayoutEx.File {
				if layout.Key == snapshot && file.Key == layout.DataKey {
					files = append(files, localPath(file.Name))
				}
			}
		}
	}
	return files
}

func (v *vcenter) afterRemoval(vm *simulator.VirtualMachine, before map[string]bool, consolidate *bool) error {
	v.stun(vm)
	if v.stuck[vm.Self.Value] || consolidate != nil && !*consolidate {
		setConsolidationNeeded(vm, true)
		return nil
	}
	if err := v.consolidate(vm, before); err != nil {
		return err
	}
	return storeFiles(vm)
}

func setConsolidationNeeded(vm *simulator.VirtualMachine, needed bool) {
	simulator.Map.WithLock(vm, func() {
		simulator.Map.Update(vm, []types.PropertyChange{{Name: "runtime.consolidationNeeded", Val: needed}})
	})
}

// relocated moves the VM's files to the other datastore, as a storage migration does, and renames every backing.
func (v *vcenter) relocated(vm *simulator.VirtualMachine, to *morefT) error {
	if to == nil {
		return nil
	}
	target := simulator.Map.Get(*to).(*simulator.Datastore)
	moved := map[string]string{}
	for name := range graphOf(vm).known {
		p := object.DatastorePath{}
		p.FromString(name)
		if p.Datastore == target.Name {
			continue
		}
		moved[name] = (&object.DatastorePath{Datastore: target.Name, Path: p.Path}).String()
	}
	for old, now := range moved {
		if err := moveDisk(old, now); err != nil {
			return err
		}
	}
	if err := moveRest(vm, target); err != nil {
		return err
	}
	v.rehome(vm, moved, *to)
	return storeFiles(vm)
}

func moveDisk(old, now string) error {
	from, to := localPath(old), localPath(now)
	d, err := readDescriptor(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(path.Dir(to), 0o700); err != nil {
		return err
	}
	if err := os.Rename(d.extentPath(from), d.extentPath(to)); err != nil {
		return err
	}
	return os.Rename(from, to)
}

// moveRest moves what else lies in the VM's directory: .vmx, NVRAM, logs, snapshot state.
func moveRest(vm *simulator.VirtualMachine, target *simulator.Datastore) error {
	home := object.DatastorePath{}
	home.FromString(vm.Config.Files.VmPathName)
	if home.Datastore == target.Name {
		return nil
	}
	old := path.Dir(home.String())
	from := path.Dir(localPath(home.String()))
	home.Datastore = target.Name
	to := path.Dir(localPath(home.String()))
	if err := os.MkdirAll(to, 0o700); err != nil {
		return err
	}
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if err := os.Rename(path.Join(from, entry.Name()), path.Join(to, entry.Name())); err != nil {
			return err
		}
	}
	os.Remove(from)
	folder := path.Dir(home.String())
	simulator.Map.WithLock(vm, func() {
		for i, file := range vm.LayoutEx.File { // where the stock simulator looks for what it deletes with a snapshot
			vm.LayoutEx.File[i].Name = strings.Replace(file.Name, old+"/", folder+"/", 1)
		}
		vm.Config.Files.VmPathName, vm.Summary.Config.VmPathName = home.String(), home.String()
		vm.Config.Files.LogDirectory, vm.Config.Files.SnapshotDirectory, vm.Config.Files.SuspendDirectory = folder, folder, folder
	})
	return nil
}

func (v *vcenter) rehome(vm *simulator.VirtualMachine, moved map[string]string, to morefT) {
	var renamed func(b *backingInfo) *backingInfo
	renamed = func(b *backingInfo) *backingInfo {
		if b == nil {
			return nil
		}
		kept := *b
		kept.Parent = renamed(b.Parent)
		if now, ok := moved[b.FileName]; ok {
			kept.FileName, kept.Datastore = now, &to
		}
		return &kept
	}
	change := func(disk *types.VirtualDisk) (*backingInfo, error) { return renamed(backingOf(disk)), nil }
	live, _ := withBackings(vm.Config.Hardware.Device, change)
	setDevices(vm, live)
	for _, snapshot := range snapshotsOf(vm) {
		kept, _ := withBackings(snapshot.Config.Hardware.Device, change)
		setSnapshotDevices(snapshot, kept)
	}
}

// consolidateDisks answers ConsolidateVMDisks_Task: what a removed snapshot left behind is folded now.
func (v *vcenter) consolidateDisks(w http.ResponseWriter, q *request) {
	vm := findVM(q.this.Value)
	if vm == nil {
		sendFault(w, "ManagedObjectNotFound", "The object has already been deleted", `<obj type="VirtualMachine">`+escape(q.this.Value)+`</obj>`)
		return
	}
	sendTask(w, q.method, startTask(q.this, q.method, true, func() (types.AnyType, types.BaseMethodFault) {
		if err := v.consolidate(vm, graphOf(vm).known); err != nil {
			return nil, &types.SystemError{Reason: err.Error()}
		}
		setConsolidationNeeded(vm, false)
		return nil, nil
	}))
}
