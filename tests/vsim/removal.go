package main

import (
	"net/http"
	"os"

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
