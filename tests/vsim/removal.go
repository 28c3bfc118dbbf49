package main

import (
	"net/http"
	"os"
	"path"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

func (v *vcenter) removing(vm *simulator.VirtualMachine, ref reference, children bool, consolidate *bool) followUp {
	before := graphOf(vm).known
	var below []reference
	walkTree(vm.Snapshot.RootSnapshotList, func(node types.VirtualMachineSnapshotTree) {
		if node.Snapshot == ref {
			walkTree(node.ChildSnapshotList, func(child types.VirtualMachineSnapshotTree) { below = append(below, child.Snapshot) })
		}
	})
	leaveCurrent(vm, ref, children, below)
	for _, one := range append([]reference{ref}, below...) {
		setApart(vm, one)
	}
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

// leaveCurrent makes the parent of what is removed the current snapshot, or none, where one that goes was: the stock
// simulator breaks where there is no parent, and when the current one goes with its parent.
func leaveCurrent(vm *simulator.VirtualMachine, ref reference, children bool, below []reference) {
	current := vm.Snapshot.CurrentSnapshot
	goes := current != nil && *current == ref
	for _, child := range below {
		goes = goes || children && current != nil && *current == child
	}
	if !goes {
		return
	}
	var parent *reference
	walkTree(vm.Snapshot.RootSnapshotList, func(node types.VirtualMachineSnapshotTree) {
		for _, child := range node.ChildSnapshotList {
			if child.Snapshot == ref {
				above := node.Snapshot
				parent = &above
			}
		}
	})
	left := *vm.Snapshot
	left.CurrentSnapshot = parent
	simulator.Map.WithLock(vm, func() { vm.Snapshot = &left })
}

// setApart takes files out of the layout that have the key of the snapshot's own by chance: the stock simulator would
// delete them with it.
func setApart(vm *simulator.VirtualMachine, ref reference) {
	simulator.Map.WithLock(vm, func() {
		var kept []types.VirtualMachineFileLayoutExFileInfo
		for _, file := range vm.LayoutEx.File {
			mine := path.Ext(file.Name) == ".vmsn" || path.Ext(file.Name) == ".vmem"
			if mine || !keyOfSnapshot(vm, ref, file.Key) {
				kept = append(kept, file)
			}
		}
		vm.LayoutEx.File = kept
	})
}

func keyOfSnapshot(vm *simulator.VirtualMachine, ref reference, key int32) bool {
	for _, layout := range vm.LayoutEx.Snapshot {
		if layout.Key == ref && (layout.DataKey == key || layout.MemoryKey == key) {
			return true
		}
	}
	return false
}

// stateFiles are the .vmsn files of these snapshots.
func stateFiles(vm *simulator.VirtualMachine, snapshots []reference) (files []string) {
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
	v.quiescing.tidy(vm)
	if v.stuck[vm.Self.Value] || consolidate != nil && !*consolidate {
		setConsolidationNeeded(vm, true)
		return nil
	}
	if err := tidy(vm, before); err != nil {
		return err
	}
	return storeFiles(vm)
}

func setConsolidationNeeded(vm *simulator.VirtualMachine, needed bool) {
	simulator.Map.WithLock(vm, func() {
		simulator.Map.Update(vm, []types.PropertyChange{{Name: "runtime.consolidationNeeded", Val: needed}})
	})
}

// consolidateDisks answers ConsolidateVMDisks_Task: what a removed snapshot left behind is folded now.
func (v *vcenter) consolidateDisks(w http.ResponseWriter, q *request) {
	vm := findVM(q.this.Value)
	if vm == nil {
		sendFault(w, "ManagedObjectNotFound", "The object has already been deleted", `<obj type="VirtualMachine">`+escape(q.this.Value)+`</obj>`)
		return
	}
	sendTask(w, q.method, startTask(q.this, q.method, true, func() (types.AnyType, types.BaseMethodFault) {
		if err := tidy(vm, graphOf(vm).known); err != nil {
			return nil, &types.SystemError{Reason: err.Error()}
		}
		setConsolidationNeeded(vm, false)
		return nil, nil
	}))
}
