package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/vmware/govmomi/simulator"
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
	Pool        string     `json:"pool"`
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
	Privileges  []string   `json:"privileges"`
}

type diskSpec struct {
	SizeBytes int64  `json:"size_bytes"`
	Mode      string `json:"mode"`
	Sharing   string `json:"sharing"`
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
		return answer{}, v.rules.set(c.Rules)
	case "drop_sessions":
		v.sessions.dropAll()
		return answer{}, nil
	case "idle_timeout":
		v.sessions.setIdle(time.Duration(c.Seconds * float64(time.Second)))
		return answer{}, nil
	case "calls":
		return v.journal.copy(c.Flag), nil
	case "role":
		v.roles.set(c.Name, c.Description, c.Privileges)
		return answer{}, nil
	case "create_vm":
		return v.createVM(c)
	case "serve_hosts":
		return v.hosts.serve()
	case "spoil_bundle":
		return v.hosts.spoil(c)
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
	case "latency":
		v.latencies[c.Datastore] = int64(c.Number)
		return answer{}, nil
	}
	if c.Do == "old_api" {
		v.quiescing.oldAPI = c.Flag
		return answer{}, nil
	}
	vm := findVM(c.VM)
	if vm == nil {
		return nil, errors.New("no such VM: " + c.VM)
	}
	switch c.Do {
	case "write":
		return answer{}, v.guestWrites(vm, c.Key, c.Offset, c.Data)
	case "vss_writers", "claim_quiesced", "quiesce_asked":
		return v.quiescing.carryOut(vm, c), nil
	case "leave_unreported":
		disk := diskByKey(vm.Config.Hardware.Device, c.Key)
		if disk == nil {
			return nil, fmt.Errorf("%s has no disk %d", vm.Name, c.Key)
		}
		uuid := backingOf(disk).Uuid
		v.unreported[uuid] = append(v.unreported[uuid], span{c.Offset, c.Length})
		return answer{}, nil
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
	case "power_state":
		return answer{"state": vm.Runtime.PowerState}, nil
	case "guest_shutdown":
		v.shutdowns[c.VM] = time.Duration(c.Seconds * float64(time.Second))
		return answer{}, nil
	case "connection":
		return setConnection(vm, c.Name, c.Flag)
	case "tools":
		setTools(vm, c.Flag)
		return answer{}, nil
	case "encrypt":
		key := &types.CryptoKeyId{KeyId: c.Name, ProviderId: &types.KeyProviderId{Id: "kms"}}
		simulator.Map.WithLock(vm, func() {
			vm.Config.KeyId = key
			if disk := diskByKey(vm.Config.Hardware.Device, c.Key); disk != nil {
				backingOf(disk).KeyId = key
			}
		})
		return answer{}, nil
	default:
		return v.operate(vm, c)
	}
}

// operate does by hand of the test what a client could do over SOAP.
func (v *vcenter) operate(vm *simulator.VirtualMachine, c *command) (interface{}, error) {
	snapshot := reference{Type: "VirtualMachineSnapshot", Value: c.Snapshot}
	switch c.Do {
	case "create_snapshot":
		result, err := v.direct(vm.Self, &types.CreateSnapshot_Task{This: vm.Self, Name: c.Name, Description: c.Description})
		if err != nil {
			return nil, err
		}
		return answer{"snapshot": result.(reference).Value}, nil
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
	return v.reshape(vm, c)
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
