package main

import (
	"net/http"
	"reflect"
	"strings"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/types"
)

// need is a privilege on an object.
type need struct {
	privilege string
	on        reference
}

// needs are the privileges that the vSphere Web Services API reference names under "Required Privileges" of a method;
// needsOf adds those that depend on its arguments. A method that is neither here nor in reading is refused to all
// but the administrator: whoever has a client call it has to say first what it takes.
var needs = map[string][]string{
	"CreateSnapshot_Task":         {"VirtualMachine.State.CreateSnapshot"},
	"CreateSnapshotEx_Task":       {"VirtualMachine.State.CreateSnapshot"},
	"RemoveSnapshot_Task":         {"VirtualMachine.State.RemoveSnapshot"},
	"RemoveAllSnapshots_Task":     {"VirtualMachine.State.RemoveSnapshot"},
	"ConsolidateVMDisks_Task":     {"VirtualMachine.State.RemoveSnapshot"},
	"RevertToSnapshot_Task":       {"VirtualMachine.State.RevertToSnapshot"},
	"QueryChangedDiskAreas":       {"VirtualMachine.Provisioning.DiskRandomRead"},
	"ShutdownGuest":               {"VirtualMachine.Interact.PowerOff"},
	"PowerOffVM_Task":             {"VirtualMachine.Interact.PowerOff"},
	"PowerOnVM_Task":              {"VirtualMachine.Interact.PowerOn"},
	"CreateVM_Task":               {"VirtualMachine.Inventory.Create", "Resource.AssignVMToPool", "Datastore.AllocateSpace"},
	"RegisterVM_Task":             {"VirtualMachine.Inventory.Register", "Resource.AssignVMToPool"},
	"UnregisterVM":                {"VirtualMachine.Inventory.Unregister"},
	"Destroy_Task":                {"VirtualMachine.Inventory.Delete"},
	"MakeDirectory":               {"Datastore.FileManagement"},
	"DeleteDatastoreFile_Task":    {"Datastore.FileManagement"},
	"SetCustomValue":              {"Global.SetCustomField"},
	"BackupFirmwareConfiguration": {"Host.Config.Firmware"},
}

// reading are the methods that change nothing and take no more than every role has.
var reading = map[string]bool{
	"RetrieveServiceContent": true, "Login": true, "Logout": true, "CurrentTime": true,
	"RetrieveProperties": true, "RetrievePropertiesEx": true, "ContinueRetrievePropertiesEx": true, "Fetch": true,
	"CreateContainerView": true, "DestroyView": true, "QueryPerf": true, "QueryEvents": true,
	"CreateCollectorForEvents": true, "SetCollectorPageSize": true, "ReadNextEvents": true, "DestroyCollector": true,
	"HasPrivilegeOnEntities": true, "FetchUserPrivilegeOnEntities": true,
}

// needsOf is what a call takes, and on which objects.
func needsOf(q *request) (wanted []need) {
	if reading[q.method] {
		return nil
	}
	switch args := q.args.(type) {
	case *types.ReconfigVM_Task:
		return reconfigureNeeds(q.this, args.Spec)
	case *types.CreateVM_Task:
		return createNeeds(q.this, args)
	}
	for name, privileges := range needs {
		if strings.EqualFold(name, q.method) { // setCustomValue begins with a small letter on the wire
			for _, privilege := range privileges {
				wanted = append(wanted, need{privilege, concerned(q)})
			}
			return wanted
		}
	}
	return []need{{"vsim knows no privilege for " + q.method, q.this}}
}

// concerned is the object whose privileges count: of a snapshot its VM, of a manager what its arguments name.
func concerned(q *request) reference {
	if q.owner != nil {
		return *q.owner
	}
	switch args := q.args.(type) {
	case *types.MakeDirectory:
		return datastoreOf(args.Name)
	case *types.DeleteDatastoreFile_Task:
		return datastoreOf(args.Name)
	case *types.BackupFirmwareConfiguration:
		return reference{Type: "HostSystem", Value: strings.TrimPrefix(q.this.Value, "firmware-")}
	}
	return q.this
}

func datastoreOf(name string) reference {
	var p object.DatastorePath
	p.FromString(name)
	if ds := findDatastore(p.Datastore); ds != nil {
		return ds.Self
	}
	return reference{Type: "Datastore", Value: p.Datastore}
}

// reconfigureNeeds: what else a client may want to change has to be added here with its privilege.
func reconfigureNeeds(vm reference, spec types.VirtualMachineConfigSpec) (wanted []need) {
	if spec.ChangeTrackingEnabled != nil {
		wanted = append(wanted, need{"VirtualMachine.Config.ChangeTracking", vm})
		spec.ChangeTrackingEnabled = nil
	}
	if !reflect.DeepEqual(spec, types.VirtualMachineConfigSpec{}) {
		wanted = append(wanted, need{"vsim knows no privilege for other changes of a configuration", vm})
	}
	return wanted
}

func createNeeds(folder reference, args *types.CreateVM_Task) []need {
	wanted := []need{
		{"VirtualMachine.Inventory.Create", folder},
		{"Resource.AssignVMToPool", args.Pool},
		{"Datastore.AllocateSpace", datastoreOf(args.Config.Files.VmPathName)},
	}
	for _, change := range args.Config.DeviceChange {
		spec := change.GetVirtualDeviceConfigSpec()
		switch device := spec.Device.(type) {
		case *types.VirtualDisk:
			if spec.FileOperation == "" {
				wanted = append(wanted, need{"VirtualMachine.Config.AddExistingDisk", folder})
			} else {
				wanted = append(wanted, need{"VirtualMachine.Config.AddNewDisk", folder})
			}
		case types.BaseVirtualEthernetCard:
			wanted = append(wanted, need{"Network.Assign", networkOf(device.GetVirtualEthernetCard().Backing)})
		}
	}
	return wanted
}

func networkOf(backing types.BaseVirtualDeviceBackingInfo) reference {
	if port, ok := backing.(*types.VirtualEthernetCardDistributedVirtualPortBackingInfo); ok {
		return reference{Type: "DistributedVirtualPortgroup", Value: port.Port.PortgroupKey}
	}
	if plain, ok := backing.(*types.VirtualEthernetCardNetworkBackingInfo); ok && plain.Network != nil {
		return *plain.Network
	}
	return reference{Type: "Network"}
}

// folderNeeds is what a request to /folder takes: to read is one of the low level file operations of the datastore
// browser ("vSphere Security", Datastore Privileges).
func folderNeeds(r *http.Request) []need {
	on := reference{Type: "Datastore", Value: r.URL.Query().Get("dsName")}
	if ds := findDatastore(on.Value); ds != nil {
		on = ds.Self
	}
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		return []need{{"Datastore.Browse", on}, {"Datastore.FileManagement", on}}
	}
	return []need{{"Datastore.FileManagement", on}}
}

// restNeeds is what a request to vAPI takes. Tags are no part of the inventory: what is done with them is granted at
// the top.
func restNeeds(r *http.Request) []need {
	top := *datacenter.Parent
	action := r.URL.Query().Get("~action")
	switch {
	case r.Method == http.MethodGet, strings.HasPrefix(action, "list-"), strings.HasSuffix(r.URL.Path, "/cis/session"):
		return nil
	case action == "attach":
		return []need{{"InventoryService.Tagging.AttachTag", top}, {"InventoryService.Tagging.ObjectAttachable", top}}
	}
	return []need{{"vsim knows no privilege for " + r.Method + " " + r.URL.Path, top}}
}
