package main

import (
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"sync"

	"github.com/vmware/govmomi/vim25/types"
)

// roles are the accounts beside the administrator's: each has exactly the privileges of its role, granted at the root
// folder and propagating, and besides the three that every role has: System.Anonymous, System.View and System.Read.
type roles struct {
	mu    sync.Mutex
	known map[string]role // by the user's name
}

type role struct {
	password   string
	privileges map[string]bool
}

// needs are the privileges that the vSphere Web Services API reference names under "Required Privileges" of a method;
// privilegesOf adds those that depend on its arguments. A method that is neither here nor in reading is refused to all
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

func (r *roles) set(user, password string, privileges []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.known == nil {
		r.known = map[string]role{}
	}
	granted := map[string]bool{"System.Anonymous": true, "System.View": true, "System.Read": true}
	for _, one := range privileges {
		granted[one] = true
	}
	r.known[user] = role{password, granted}
}

func (r *roles) find(user string) (role, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	found, limited := r.known[user]
	return found, limited
}

// lacks is the first of the privileges that the user has not; the administrator has all.
func (r *roles) lacks(user string, privileges ...string) string {
	found, limited := r.find(user)
	if !limited {
		return ""
	}
	for _, one := range privileges {
		if !found.privileges[one] {
			return one
		}
	}
	return ""
}

// privilegesOf is what a call takes.
func privilegesOf(q *request) []string {
	if reading[q.method] {
		return nil
	}
	switch args := q.args.(type) {
	case *types.ReconfigVM_Task:
		return reconfigureNeeds(args.Spec)
	case *types.CreateVM_Task:
		return append(deviceNeeds(args.Config.DeviceChange), needs[q.method]...)
	}
	for name, privileges := range needs {
		if strings.EqualFold(name, q.method) { // setCustomValue begins with a small letter on the wire
			return privileges
		}
	}
	return []string{"vsim knows no privilege for " + q.method}
}

// reconfigureNeeds: what else a client may want to change has to be added here with its privilege.
func reconfigureNeeds(spec types.VirtualMachineConfigSpec) (wanted []string) {
	if spec.ChangeTrackingEnabled != nil {
		wanted = append(wanted, "VirtualMachine.Config.ChangeTracking")
		spec.ChangeTrackingEnabled = nil
	}
	if !reflect.DeepEqual(spec, types.VirtualMachineConfigSpec{}) {
		wanted = append(wanted, "vsim knows no privilege for other changes of a configuration")
	}
	return wanted
}

func deviceNeeds(changes []types.BaseVirtualDeviceConfigSpec) (wanted []string) {
	for _, change := range changes {
		spec := change.GetVirtualDeviceConfigSpec()
		switch spec.Device.(type) {
		case *types.VirtualDisk:
			if spec.FileOperation == "" {
				wanted = append(wanted, "VirtualMachine.Config.AddExistingDisk")
			} else {
				wanted = append(wanted, "VirtualMachine.Config.AddNewDisk")
			}
		case types.BaseVirtualEthernetCard:
			wanted = append(wanted, "Network.Assign")
		}
	}
	return wanted
}

// folderNeeds is what a request to /folder takes: to read is one of the low level file operations of the datastore
// browser ("vSphere Security", Datastore Privileges).
func folderNeeds(method string) []string {
	if method == http.MethodGet || method == http.MethodHead {
		return []string{"Datastore.Browse", "Datastore.FileManagement"}
	}
	return []string{"Datastore.FileManagement"}
}

// restNeeds is what a request to vAPI takes.
func restNeeds(r *http.Request) []string {
	action := r.URL.Query().Get("~action")
	switch {
	case r.Method == http.MethodGet, strings.HasPrefix(action, "list-"), strings.HasSuffix(r.URL.Path, "/cis/session"):
		return nil
	case action == "attach":
		return []string{"InventoryService.Tagging.AttachTag", "InventoryService.Tagging.ObjectAttachable"}
	}
	return []string{"vsim knows no privilege for " + r.Method + " " + r.URL.Path}
}

func sendNoPermission(w http.ResponseWriter, q *request, privilege string) {
	sendFault(w, "NoPermission", "Permission to perform this operation was denied.", fmt.Sprintf(
		`<object type="%s">%s</object><privilegeId>%s</privilegeId>`, q.this.Type, escape(q.this.Value), escape(privilege)))
}

// answerOnPrivileges answers what AuthorizationManager is asked about a limited user; false for the administrator, of
// whom the stock simulator says that he may everything.
func (v *vcenter) answerOnPrivileges(w http.ResponseWriter, q *request) bool {
	user := v.sessions.user(q.http)
	found, limited := v.roles.find(user)
	if !limited {
		return false
	}
	var reply strings.Builder
	switch args := q.args.(type) {
	case *types.HasPrivilegeOnEntities:
		for _, entity := range args.Entity {
			fmt.Fprintf(&reply, `<returnval><entity type="%s">%s</entity>`, entity.Type, escape(entity.Value))
			for _, one := range args.PrivId {
				fmt.Fprintf(&reply, `<privAvailability><privId>%s</privId><isGranted>%v</isGranted></privAvailability>`,
					escape(one), found.privileges[one])
			}
			reply.WriteString(`</returnval>`)
		}
	case *types.FetchUserPrivilegeOnEntities:
		for _, entity := range args.Entities {
			fmt.Fprintf(&reply, `<returnval><entity type="%s">%s</entity>`, entity.Type, escape(entity.Value))
			for one := range found.privileges {
				fmt.Fprintf(&reply, `<privileges>%s</privileges>`, escape(one))
			}
			reply.WriteString(`</returnval>`)
		}
	default:
		return false
	}
	sendReply(w, q.method, reply.String())
	return true
}
