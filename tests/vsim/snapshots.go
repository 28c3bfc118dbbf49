package main

import (
	"fmt"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// What the stock simulator leaves undone about snapshots: it keeps the tree, and touches no disk.

func findSnapshot(ref reference) *simulator.VirtualMachineSnapshot {
	snapshot, _ := simulator.Map.Get(ref).(*simulator.VirtualMachineSnapshot)
	return snapshot
}

func snapshotDisk(ref *reference, key int32) *types.VirtualDisk {
	if ref == nil {
		return nil
	}
	if snapshot := findSnapshot(*ref); snapshot != nil {
		return diskByKey(snapshot.Config.Hardware.Device, key)
	}
	return nil
}

func walkTree(tree []types.VirtualMachineSnapshotTree, visit func(types.VirtualMachineSnapshotTree)) {
	for _, node := range tree {
		visit(node)
		walkTree(node.ChildSnapshotList, visit)
	}
}

func snapshotsOf(vm *simulator.VirtualMachine) (found []*simulator.VirtualMachineSnapshot) {
	if vm.Snapshot == nil {
		return nil
	}
	walkTree(vm.Snapshot.RootSnapshotList, func(node types.VirtualMachineSnapshotTree) {
		if snapshot := findSnapshot(node.Snapshot); snapshot != nil {
			found = append(found, snapshot)
		}
	})
	return found
}

// withBackings copies a device list, with each disk's backing replaced by what `change` returns. Lists are never changed
// in place: a reply with the old one may be on its way out.
func withBackings(devices []types.BaseVirtualDevice, change func(*types.VirtualDisk) (*backingInfo, error)) ([]types.BaseVirtualDevice, error) {
	copied := append([]types.BaseVirtualDevice{}, devices...)
	for i, device := range copied {
		disk, ok := device.(*types.VirtualDisk)
		if !ok || len(disksOf(devices[i:i+1])) == 0 {
			continue
		}
		backing, err := change(disk)
		if err != nil {
			return nil, err
		}
		changed := *disk
		changed.Backing = backing
		copied[i] = &changed
	}
	return copied, nil
}

func setDevices(vm *simulator.VirtualMachine, devices []types.BaseVirtualDevice) {
	simulator.Map.WithLock(vm, func() {
		simulator.Map.Update(vm, []types.PropertyChange{{Name: "config.hardware.device", Val: devices}})
	})
}

func setSnapshotDevices(snapshot *simulator.VirtualMachineSnapshot, devices []types.BaseVirtualDevice) {
	simulator.Map.WithLock(snapshot, func() { snapshot.Config.Hardware.Device = devices })
}

// newTop puts an empty delta on a disk, for the guest to write to.
func newTop(disk *types.VirtualDisk) (*backingInfo, error) {
	below := *backingOf(disk)
	below.ChangeId = ""
	if independent(disk) {
		return &below, nil
	}
	name, err := createDelta(below.FileName)
	if err != nil {
		return nil, err
	}
	top := below
	top.FileName, top.Parent = name, &below
	return &top, nil
}

func (v *vcenter) snapshotting(vm *simulator.VirtualMachine, q *request) followUp {
	return func(task *simulator.Task) error {
		ref := task.Info.Result.(reference)
		if err := v.snapshotCreated(vm, ref); err != nil {
			return err
		}
		return v.quiescing.done(vm, ref, q)
	}
}

// snapshotCreated freezes the disks as they are: the snapshot keeps them, with their change ids, and the VM moves on to
// deltas. The stun this takes comes after the ids were read, so a tracking just switched on gives none yet.
func (v *vcenter) snapshotCreated(vm *simulator.VirtualMachine, ref reference) error {
	snapshot := findSnapshot(ref)
	frozen, _ := withBackings(vm.Config.Hardware.Device, func(disk *types.VirtualDisk) (*backingInfo, error) {
		kept := *backingOf(disk)
		if t := v.trackers[kept.Uuid]; t != nil && trackingSwitchedOn(vm) && !independent(disk) {
			kept.ChangeId = t.changeID()
			t.epoch++
		}
		return &kept, nil
	})
	setSnapshotDevices(snapshot, frozen)
	if trackingSwitchedOn(vm) { // the stock simulator shares the switch's variable between the VM and its snapshots
		simulator.Map.WithLock(snapshot, func() { snapshot.Config.ChangeTrackingEnabled = types.NewBool(true) })
	}
	live, err := withBackings(frozen, newTop)
	if err != nil {
		return err
	}
	setDevices(vm, live)
	v.stun(vm)
	return storeFiles(vm)
}

// tidy deletes the deltas that nothing refers to any more, and folds each that only carries on what no snapshot
// keeps into what lies below it. With a snapshot gone from mid-chain that is one link; the others stay as they are.
func tidy(vm *simulator.VirtualMachine, before map[string]bool) error {
	for {
		graph := graphOf(vm)
		for name := range before {
			if !graph.known[name] {
				removeLink(name)
			}
		}
		child, parent := graph.foldable()
		if child == "" {
			return nil
		}
		if err := fold(child, parent); err != nil {
			return err
		}
		if err := rename(vm, child, parent); err != nil {
			return err
		}
		before = graph.known
	}
}

// rename lets everything that referred to the folded link refer to what it was folded into.
func rename(vm *simulator.VirtualMachine, folded, into string) error {
	replace := func(disk *types.VirtualDisk) (*backingInfo, error) {
		return withoutLink(backingOf(disk), folded, into), nil
	}
	live, _ := withBackings(vm.Config.Hardware.Device, replace)
	setDevices(vm, live)
	for _, snapshot := range snapshotsOf(vm) {
		kept, _ := withBackings(snapshot.Config.Hardware.Device, replace)
		setSnapshotDevices(snapshot, kept)
	}
	for name, parent := range graphOf(vm).parent {
		if parent != into {
			continue
		}
		if err := changeDescriptor(name, func(d *descriptor) { d.parentHint = baseName(into) }); err != nil {
			return err
		}
	}
	return nil
}

func withoutLink(b *backingInfo, folded, into string) *backingInfo {
	if b == nil {
		return nil
	}
	kept := *b
	kept.Parent = withoutLink(b.Parent, folded, into)
	if b.FileName == folded && kept.Parent != nil {
		below := *kept.Parent
		below.ChangeId = b.ChangeId // the snapshot that had the folded link as its top keeps its change id
		return &below
	}
	return &kept
}

// diskGraph is who lies on whom among all disk files of a VM, over its present state and its snapshots.
type diskGraph struct {
	known  map[string]bool
	parent map[string]string
	kept   map[string]bool // the present state or a snapshot ends here
}

func graphOf(vm *simulator.VirtualMachine) diskGraph {
	g := diskGraph{known: map[string]bool{}, parent: map[string]string{}, kept: map[string]bool{}}
	g.add(vm.Config.Hardware.Device)
	for _, snapshot := range snapshotsOf(vm) {
		g.add(snapshot.Config.Hardware.Device)
	}
	return g
}

func (g diskGraph) add(devices []types.BaseVirtualDevice) {
	for _, disk := range disksOf(devices) {
		g.kept[backingOf(disk).FileName] = true
		for b := backingOf(disk); b != nil; b = b.Parent {
			g.known[b.FileName] = true
			if b.Parent != nil {
				g.parent[b.FileName] = b.Parent.FileName
			}
		}
	}
}

// foldable finds a link whose parent is kept for no other purpose, "" when there is none.
func (g diskGraph) foldable() (child, parent string) {
	children := map[string][]string{}
	for name, below := range g.parent {
		children[below] = append(children[below], name)
	}
	for below, above := range children {
		if !g.kept[below] && len(above) == 1 {
			return above[0], below
		}
	}
	return "", ""
}

// reverted throws the present state of the disks away and starts a new one on what the snapshot kept. keepTracking says
// whether the change trackers survive it: on some releases they do, and then know nothing of what the revert changed.
func (v *vcenter) reverted(vm *simulator.VirtualMachine, ref reference) error {
	snapshot := findSnapshot(ref)
	if snapshot == nil {
		return fmt.Errorf("no snapshot %s", ref.Value)
	}
	before := graphOf(vm).known
	live, err := withBackings(snapshot.Config.Hardware.Device, func(disk *types.VirtualDisk) (*backingInfo, error) {
		if !v.keepTracking {
			delete(v.trackers, backingOf(disk).Uuid)
		}
		return newTop(disk)
	})
	if err != nil {
		return err
	}
	setDevices(vm, live)
	simulator.Map.WithLock(vm, func() { // the configuration goes back as well, and the switch with it
		on := snapshot.Config.ChangeTrackingEnabled
		vm.Config.ChangeTrackingEnabled = types.NewBool(on != nil && *on)
	})
	v.forgetTracking(vm)
	v.stun(vm)
	if err := tidy(vm, before); err != nil {
		return err
	}
	return storeFiles(vm)
}
