package main

import (
	"fmt"
	"os"
	"path"
	"strings"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// relocated moves the VM's files to the other datastore, as a storage migration does, and renames every backing.
func (v *vcenter) relocated(vm *simulator.VirtualMachine, to *reference) error {
	if to == nil {
		return nil
	}
	m := &move{target: simulator.Map.Get(*to).(*simulator.Datastore), directories: map[string]string{}}
	moved := map[string]string{}
	for name := range graphOf(vm).known {
		if now := m.place(name); now != name {
			moved[name] = now
		}
	}
	for old, now := range moved {
		if err := moveDisk(old, now); err != nil {
			return err
		}
	}
	if err := m.moveRest(vm); err != nil {
		return err
	}
	rehome(vm, moved, *to)
	return storeFiles(vm)
}

// move is one migration. Directories keep their names, or get a number where the target has one of that name.
type move struct {
	target      *simulator.Datastore
	directories map[string]string
}

// place is what the file will be called on the target.
func (m *move) place(name string) string {
	p := object.DatastorePath{}
	p.FromString(name)
	if p.Datastore == m.target.Name {
		return name
	}
	directory := path.Dir(p.Path)
	if m.directories[directory] == "" {
		free := directory
		for n := 1; m.taken(free); n++ {
			free = fmt.Sprintf("%s_%d", directory, n)
		}
		m.directories[directory] = free
	}
	return fmt.Sprintf("[%s] %s/%s", m.target.Name, m.directories[directory], baseName(p.Path))
}

// taken: by what the target has, or by another directory on its way there.
func (m *move) taken(directory string) bool {
	for _, other := range m.directories {
		if other == directory {
			return true
		}
	}
	return exists("[" + m.target.Name + "] " + directory)
}

func exists(name string) bool {
	_, err := os.Stat(localPath(name))
	return err == nil
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
func (m *move) moveRest(vm *simulator.VirtualMachine) error {
	was, home := vm.Config.Files.VmPathName, m.place(vm.Config.Files.VmPathName)
	if home == was {
		return nil
	}
	from, to := path.Dir(localPath(was)), path.Dir(localPath(home))
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
	folder := path.Dir(home)
	simulator.Map.WithLock(vm, func() {
		for i, file := range vm.LayoutEx.File { // where the stock simulator looks for what it deletes with a snapshot
			vm.LayoutEx.File[i].Name = strings.Replace(file.Name, path.Dir(was)+"/", folder+"/", 1)
		}
		vm.Config.Files.VmPathName, vm.Summary.Config.VmPathName = home, home
		vm.Config.Files.LogDirectory, vm.Config.Files.SnapshotDirectory, vm.Config.Files.SuspendDirectory = folder, folder, folder
	})
	return nil
}

func rehome(vm *simulator.VirtualMachine, moved map[string]string, to reference) {
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
