package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"time"

	"context"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// command is one line of JSON on standard input: the test's own door, which is no part of what a client can reach.
type command struct {
	Do          string     `json:"do"`
	VM          string     `json:"vm"`
	Key         int32      `json:"key"`
	Offset      int64      `json:"offset"`
	Length      int64      `json:"length"`
	Data        []byte     `json:"data"` // base64 in JSON
	Name        string     `json:"name"`
	Description string     `json:"description"`
	Snapshot    string     `json:"snapshot"`
	Datastore   string     `json:"datastore"`
	Folder      string     `json:"folder"`
	GuestID     string     `json:"guest_id"`
	Firmware    string     `json:"firmware"`
	Hardware    string     `json:"hardware"`
	Disks       []diskSpec `json:"disks"`
	Flag        bool       `json:"flag"`
	Seconds     float64    `json:"seconds"`
	Number      int        `json:"number"`
	Rules       []*rule    `json:"rules"`
	MemoryMB    int64      `json:"memory_mb"`
	CPUs        int32      `json:"cpus"`
	SharedBus   string     `json:"shared_bus"`
	Tracking    bool       `json:"change_tracking"`
}

type diskSpec struct {
	SizeBytes int64  `json:"size_bytes"`
	Mode      string `json:"mode"`
	Sharing   string `json:"sharing"`
	RawDevice string `json:"raw_device"` // "physicalMode" or "virtualMode"
	Unit      *int32 `json:"unit"`
}

// obey carries commands out, one at a time and each with one line in answer, until the input ends: the test, or the
// process it ran in, is then gone.
func (v *vcenter) obey(in io.Reader, out io.Writer) {
	lines := bufio.NewReader(in)
	replies := json.NewEncoder(out)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return
		}
		result, err := v.carryOut(line)
		if err != nil {
			result = map[string]string{"error": err.Error()}
		}
		if replies.Encode(result) != nil {
			return
		}
	}
}

type answer map[string]interface{}

func (v *vcenter) carryOut(line []byte) (result interface{}, err error) {
	defer func() {
		if problem := recover(); problem != nil {
			err = fmt.Errorf("vsim: %v", problem)
		}
	}()
	c := &command{}
	if err := json.Unmarshal(line, c); err != nil {
		return nil, err
	}
	switch c.Do {
	case "rules":
		v.rules.set(c.Rules)
		return answer{}, nil
	case "drop_sessions":
		v.sessions.dropAll()
		return answer{}, nil
	case "idle_timeout":
		v.sessions.setIdle(time.Duration(c.Seconds * float64(time.Second)))
		return answer{}, nil
	case "calls":
		return v.journal.copy(c.Flag), nil
	case "create_vm":
		return v.createVM(c)
	case "free_space":
		return setFreeSpace(c)
	}
	return v.carryOutOnDisks(c)
}

func (v *vcenter) carryOutOnDisks(c *command) (interface{}, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch c.Do {
	case "areas_per_call":
		v.areasPerCall = c.Number
		return answer{}, nil
	case "keep_tracking":
		v.keepTracking = c.Flag
		return answer{}, nil
	}
	vm := findVM(c.VM)
	if vm == nil {
		return nil, errors.New("no such VM: " + c.VM)
	}
	switch c.Do {
	case "write":
		return answer{}, v.guestWrites(vm, c.Key, c.Offset, c.Data)
	case "read":
		data, err := guestReads(vm, c.Key, c.Offset, c.Length)
		return answer{"data": data}, err
	case "disks":
		return disksTold(vm), nil
	case "snapshots":
		return snapshotsTold(vm), nil
	case "consolidation_needed":
		setConsolidationNeeded(vm, c.Flag)
		return answer{}, nil
	case "stick_consolidation":
		v.stuck[c.VM] = c.Flag
		return answer{}, nil
	case "tools":
		setTools(vm, c.Flag)
		return answer{}, nil
	case "encrypt":
		simulator.Map.WithLock(vm, func() {
			vm.Config.KeyId = &types.CryptoKeyId{KeyId: c.Name, ProviderId: &types.KeyProviderId{Id: "kms"}}
		})
		return answer{}, nil
	default:
		return v.operate(vm, c)
	}
}

// operate does by hand of the test what a client could do over SOAP.
func (v *vcenter) operate(vm *simulator.VirtualMachine, c *command) (interface{}, error) {
	snapshot := morefT{Type: "VirtualMachineSnapshot", Value: c.Snapshot}
	switch c.Do {
	case "create_snapshot":
		result, err := v.direct(vm.Self, &types.CreateSnapshot_Task{This: vm.Self, Name: c.Name, Description: c.Description})
		if err != nil {
			return nil, err
		}
		return answer{"snapshot": result.(morefT).Value}, nil
	case "remove_snapshot":
		_, err := v.direct(snapshot, &types.RemoveSnapshot_Task{This: snapshot, RemoveChildren: c.Flag})
		return answer{}, err
	case "revert":
		before := v.keepTracking
		v.keepTracking = c.Flag
		defer func() { v.keepTracking = before }()
		_, err := v.direct(snapshot, &types.RevertToSnapshot_Task{This: snapshot})
		return answer{}, err
	case "migrate":
		ds := findDatastore(c.Datastore)
		if ds == nil {
			return nil, errors.New("no such datastore: " + c.Datastore)
		}
		_, err := v.direct(vm.Self, &types.RelocateVM_Task{This: vm.Self, Spec: types.VirtualMachineRelocateSpec{Datastore: &ds.Self}})
		return answer{}, err
	case "power":
		if c.Flag {
			_, err := v.direct(vm.Self, &types.PowerOnVM_Task{This: vm.Self})
			return answer{}, err
		}
		_, err := v.direct(vm.Self, &types.PowerOffVM_Task{This: vm.Self})
		return answer{}, err
	case "change_tracking":
		_, err := v.direct(vm.Self, &types.ReconfigVM_Task{This: vm.Self, Spec: types.VirtualMachineConfigSpec{ChangeTrackingEnabled: &c.Flag}})
		return answer{}, err
	case "destroy":
		_, err := v.direct(vm.Self, &types.Destroy_Task{This: vm.Self})
		return answer{}, err
	}
	return nil, errors.New("no such command: " + c.Do)
}

// direct calls the stock simulator without SOAP, with the same looks before and work after as a client's call gets.
func (v *vcenter) direct(this morefT, args interface{}) (types.AnyType, error) {
	q := &request{this: this, args: args}
	if snapshot := findSnapshot(this); snapshot != nil {
		q.owner = &snapshot.Vm
	}
	after, refusal := v.prepare(q)
	if refusal != nil {
		return nil, errors.New(describe(refusal))
	}
	ref, err := v.roundTrip(args)
	if err != nil {
		return nil, err
	}
	task := simulator.Map.Get(ref).(*simulator.Task)
	makeReadable(task, q.owner)
	if task.Info.Error != nil {
		return nil, errors.New(describe(task.Info.Error.Fault))
	}
	if after != nil {
		if err := after(task); err != nil {
			return nil, err
		}
	}
	v.record(task, reflect.TypeOf(args).Elem().Name())
	return task.Info.Result, nil
}

// roundTrip makes the call and returns its task.
func (v *vcenter) roundTrip(args interface{}) (morefT, error) {
	var request, reply soap.HasFault
	switch args := args.(type) {
	case *types.CreateVM_Task:
		request, reply = &methods.CreateVM_TaskBody{Req: args}, &methods.CreateVM_TaskBody{}
	case *types.CreateSnapshot_Task:
		request, reply = &methods.CreateSnapshot_TaskBody{Req: args}, &methods.CreateSnapshot_TaskBody{}
	case *types.RemoveSnapshot_Task:
		request, reply = &methods.RemoveSnapshot_TaskBody{Req: args}, &methods.RemoveSnapshot_TaskBody{}
	case *types.RevertToSnapshot_Task:
		request, reply = &methods.RevertToSnapshot_TaskBody{Req: args}, &methods.RevertToSnapshot_TaskBody{}
	case *types.RelocateVM_Task:
		request, reply = &methods.RelocateVM_TaskBody{Req: args}, &methods.RelocateVM_TaskBody{}
	case *types.PowerOnVM_Task:
		request, reply = &methods.PowerOnVM_TaskBody{Req: args}, &methods.PowerOnVM_TaskBody{}
	case *types.PowerOffVM_Task:
		request, reply = &methods.PowerOffVM_TaskBody{Req: args}, &methods.PowerOffVM_TaskBody{}
	case *types.ReconfigVM_Task:
		request, reply = &methods.ReconfigVM_TaskBody{Req: args}, &methods.ReconfigVM_TaskBody{}
	case *types.Destroy_Task:
		request, reply = &methods.Destroy_TaskBody{Req: args}, &methods.Destroy_TaskBody{}
	}
	if err := v.service.RoundTrip(context.Background(), request, reply); err != nil {
		return morefT{}, err
	}
	result := reflect.ValueOf(reply).Elem().FieldByName("Res").Elem().FieldByName("Returnval")
	return result.Interface().(morefT), nil
}

func (v *vcenter) createVM(c *command) (interface{}, error) {
	pool := defaultPool()
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
		if want.RawDevice != "" {
			disk.Backing = rawBacking(c.Datastore, want)
		}
		spec.DeviceChange = append(spec.DeviceChange, addDevice(disk, types.VirtualDeviceConfigSpecFileOperationCreate))
	}
	result, err := v.direct(folder.Self, &types.CreateVM_Task{This: folder.Self, Config: spec, Pool: pool})
	if err != nil {
		return nil, err
	}
	vm := findVM(result.(morefT).Value)
	if c.Flag {
		if _, err := v.direct(vm.Self, &types.PowerOnVM_Task{This: vm.Self}); err != nil {
			return nil, err
		}
	}
	return answer{"vm": vm.Self.Value, "disks": disksTold(vm)}, nil
}

func rawBacking(datastore string, want diskSpec) *types.VirtualDiskRawDiskMappingVer1BackingInfo {
	return &types.VirtualDiskRawDiskMappingVer1BackingInfo{
		VirtualDeviceFileBackingInfo: types.VirtualDeviceFileBackingInfo{FileName: "[" + datastore + "]"},
		CompatibilityMode:            want.RawDevice,
		DeviceName:                   "vml.02000000006000c29",
		DiskMode:                     string(types.VirtualDiskModePersistent),
		Uuid:                         newDiskUUID(),
	}
}

func defaultPool() morefT {
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

func (v *vcenter) guestWrites(vm *simulator.VirtualMachine, key int32, offset int64, data []byte) error {
	disk := diskByKey(vm.Config.Hardware.Device, key)
	if disk == nil {
		return fmt.Errorf("%s has no disk %d", vm.Name, key)
	}
	if offset < 0 || offset+int64(len(data)) > disk.CapacityInKB*1024 {
		return errors.New("a write beyond the end of the disk")
	}
	if err := guestWrite(linksOf(backingOf(disk)), data, offset); err != nil {
		return err
	}
	if t := v.trackers[backingOf(disk).Uuid]; t != nil && trackingSwitchedOn(vm) && len(data) > 0 {
		t.writes = append(t.writes, trackedWrite{t.epoch, span{offset, int64(len(data))}})
	}
	return nil
}

func guestReads(vm *simulator.VirtualMachine, key int32, offset, length int64) ([]byte, error) {
	disk := diskByKey(vm.Config.Hardware.Device, key)
	if disk == nil {
		return nil, fmt.Errorf("%s has no disk %d", vm.Name, key)
	}
	first := offset / sector * sector
	last := min64((offset+length+sector-1)/sector*sector, disk.CapacityInKB*1024)
	if offset < 0 || length < 0 || offset+length > last {
		return nil, errors.New("a read beyond the end of the disk")
	}
	whole, err := readChain(linksOf(backingOf(disk)), first, last-first)
	if err != nil {
		return nil, err
	}
	return whole[offset-first : offset-first+length], nil
}

func disksTold(vm *simulator.VirtualMachine) (told []answer) {
	for _, disk := range disksOf(vm.Config.Hardware.Device) {
		var files []string
		for _, name := range linksOf(backingOf(disk)) {
			files = append(files, localPath(name))
		}
		extent := ""
		if d, err := readDescriptor(files[0]); err == nil {
			extent = d.extentPath(files[0])
		}
		told = append(told, answer{
			"key": disk.Key, "uuid": backingOf(disk).Uuid, "file_name": backingOf(disk).FileName,
			"size_bytes": disk.CapacityInKB * 1024, "files": files, "extent": extent,
		})
	}
	return told
}

func snapshotsTold(vm *simulator.VirtualMachine) []answer {
	told := []answer{}
	if vm.Snapshot == nil {
		return told
	}
	walkTree(vm.Snapshot.RootSnapshotList, func(node types.VirtualMachineSnapshotTree) {
		told = append(told, answer{
			"snapshot": node.Snapshot.Value, "name": node.Name, "description": node.Description, "quiesced": node.Quiesced,
		})
	})
	return told
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

func (j *journal) copy(reset bool) answer {
	j.mu.Lock()
	defer j.mu.Unlock()
	counts := map[string]int{}
	for name, n := range j.Methods {
		counts[name] = n
	}
	told := answer{
		"methods": counts, "calls": append([]call{}, j.Calls...), "folder_requests": j.FolderRequests,
		"folder_bytes_served": j.FolderSent, "folder_bytes_received": j.FolderReceived,
	}
	if reset {
		j.Methods, j.Calls, j.FolderRequests, j.FolderSent, j.FolderReceived = nil, nil, 0, 0, 0
	}
	return told
}
