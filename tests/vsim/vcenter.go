package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

var typeOf = types.TypeFunc()

// vcenter stands in front of the stock simulator: it holds clients to a real vCenter's rules, answers what the stock
// one does not know, passes the rest on, and then does to the disks what the stock one leaves undone.
type vcenter struct {
	service       *simulator.Service
	administrator *url.Userinfo
	stock         http.Handler
	sessions      *sessions
	roles         roles
	rules         rules
	journal       journal
	hosts         hosts

	// mu makes one operation on disks at a time, and guards all below. It is never held across any other call: the
	// stock simulator locks by object, and a waiting WaitForUpdatesEx keeps its lock until a task of ours has ended.
	mu           sync.Mutex
	trackers     map[string]*tracker // by the disk's UUID
	unreported   map[string][]span   // by the disk's UUID: where change tracking lies, as its bugs have made it do
	quiescing    quiescing
	areasPerCall int
	shutdowns    map[string]time.Duration // how long a VM's guest takes to shut down; never, when negative
	startTools   map[string]bool          // VMs whose Tools start with them
	keepTracking bool                     // over a revert
	stuck        map[string]bool          // VMs on which a removed snapshot's deltas stay, as when a disk is locked
	latencies    map[string]int64         // milliseconds, by the datastore's name
}

// diskMethods change disks or read how they lie.
var diskMethods = map[string]bool{
	"CreateSnapshot_Task": true, "RemoveSnapshot_Task": true, "RemoveAllSnapshots_Task": true,
	"RevertToSnapshot_Task": true, "RevertToCurrentSnapshot_Task": true, "ReconfigVM_Task": true,
	"CreateVM_Task": true, "RegisterVM_Task": true, "RelocateVM_Task": true, "CloneVM_Task": true,
	"PowerOnVM_Task": true, "PowerOffVM_Task": true, "Destroy_Task": true, "UnregisterVM": true,
	"QueryChangedDiskAreas": true, "ShutdownGuest": true, "ConsolidateVMDisks_Task": true, "QueryPerf": true,
}

// request is one SOAP call on its way through.
type request struct {
	method   string
	this     reference
	args     interface{}
	body     []byte
	http     *http.Request
	loggedIn bool
	quiesced bool
	owner    *reference // the VM of the snapshot that is called, which may be gone afterwards
	putBack  func()     // undoes what prepare did for the call's sake
}

func (v *vcenter) serveSDK(w http.ResponseWriter, r *http.Request) {
	q, err := readRequest(r)
	if err != nil {
		sendFault(w, "InvalidRequest", err.Error(), "")
		return
	}
	v.journal.soap(q.method, q.this.Value)
	q.loggedIn = v.sessions.known(r)
	if !q.loggedIn && !openToAll(q) {
		sendFault(w, "NotAuthenticated", "The session is not authenticated.",
			fmt.Sprintf(`<object type="%s">%s</object><privilegeId>System.View</privilegeId>`, q.this.Type, escape(q.this.Value)))
		return
	}
	if login, ok := q.args.(*types.Login); ok && !v.mayLogIn(login.UserName, login.Password) {
		sendFault(w, "InvalidLogin", "Cannot complete login due to an incorrect user name or password.", "")
		return
	}
	if snapshot := findSnapshot(q.this); snapshot != nil {
		q.owner = &snapshot.Vm
	}
	if lacks := v.roles.lacks(v.sessions.user(r), needsOf(q)); lacks != nil && !gone(q) {
		sendNoPermission(w, lacks)
		return
	}
	if due := v.rules.match(q); due != nil {
		v.serveFaulty(w, q, due)
		return
	}
	v.serve(w, q)
}

func openToAll(q *request) bool {
	return strings.HasPrefix(q.method, "Login") || q.this.Type == "ServiceInstance"
}

func readRequest(r *http.Request) (*request, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	parsed, err := simulator.UnmarshalBody(typeOf, body)
	if err != nil {
		return nil, err
	}
	q := &request{method: parsed.Name, this: parsed.This, args: parsed.Body, body: body, http: r}
	switch args := parsed.Body.(type) {
	case *types.CreateSnapshot_Task:
		q.quiesced = args.Quiesce
		q.body = snapshotBody(q.this, args.Name, args.Description, args.Memory, args.Quiesce && canQuiesce(q.this))
	case *types.CreateSnapshotEx_Task: // unknown to the stock simulator
		q.quiesced = args.QuiesceSpec != nil
		q.body = snapshotBody(q.this, args.Name, args.Description, args.Memory, q.quiesced && canQuiesce(q.this))
	}
	return q, nil
}

// canQuiesce: without running Tools a host ignores the wish, and the snapshot says so ("Web Services API Reference",
// CreateSnapshot_Task).
func canQuiesce(ref reference) bool {
	vm := findVM(ref.Value)
	return vm != nil && vm.Runtime.PowerState == types.VirtualMachinePowerStatePoweredOn && vm.Guest != nil &&
		vm.Guest.ToolsRunningStatus == string(types.VirtualMachineToolsRunningStatusGuestToolsRunning)
}

func snapshotBody(vm reference, name, description string, memory, quiesce bool) []byte {
	return []byte(fmt.Sprintf(envelope, fmt.Sprintf(`<CreateSnapshot_Task xmlns="urn:vim25">`+
		`<_this type="VirtualMachine">%s</_this><name>%s</name><description>%s</description>`+
		`<memory>%v</memory><quiesce>%v</quiesce></CreateSnapshot_Task>`,
		escape(vm.Value), escape(name), escape(description), memory, quiesce)))
}

// stockMethod is what the method is called where it goes on to.
func (q *request) stockMethod() string {
	if q.method == "CreateSnapshotEx_Task" {
		return "CreateSnapshot_Task"
	}
	return q.method
}

// user is who logs in with the call.
func (q *request) user() string {
	if login, ok := q.args.(*types.Login); ok {
		return login.UserName
	}
	return ""
}

// mayLogIn: the administrator, and whoever has a role, each with the own password.
func (v *vcenter) mayLogIn(user, password string) bool {
	if found, limited := v.roles.find(user); limited {
		return found.password == password
	}
	right, _ := v.administrator.Password()
	return user == v.administrator.Username() && password == right
}

func (v *vcenter) serve(w http.ResponseWriter, q *request) {
	reply := v.perform(q)
	v.sessions.learn(reply.Result(), q.user())
	v.sessions.touch(q.http)
	if q.method == "Logout" {
		v.sessions.forget(q.http)
	}
	for key, values := range reply.Header() {
		w.Header()[key] = values
	}
	w.WriteHeader(reply.Code)
	_, _ = w.Write(reply.Body.Bytes())
}

// perform does the work of a call and returns the reply, with everything done that the reply claims.
func (v *vcenter) perform(q *request) *httptest.ResponseRecorder {
	if diskMethods[q.stockMethod()] {
		v.mu.Lock()
		defer v.mu.Unlock()
	}
	reply := httptest.NewRecorder()
	switch args := q.args.(type) {
	case *types.QueryChangedDiskAreas:
		v.queryChangedDiskAreas(reply, q.this, args)
		return reply
	case *types.ConsolidateVMDisks_Task:
		v.consolidateDisks(reply, q)
		return reply
	case *types.QueryEvents:
		v.queryEvents(reply, args)
		return reply
	case *types.BackupFirmwareConfiguration:
		v.hosts.backupConfiguration(reply, q)
		return reply
	case *types.ShutdownGuest:
		v.shutdownGuest(reply, q)
		return reply
	case *types.RetrievePropertiesEx:
		if v.hosts.certificateOf(reply, args) {
			return reply
		}
	case *types.QueryPerf:
		v.queryPerf(reply, args)
		return reply
	}
	if v.answerOnPrivileges(reply, q) {
		return reply
	}
	if args, ok := q.args.(*types.RetrievePropertiesEx); ok {
		refreshLayouts(args)
	}
	if v.quiescing.oldAPI && q.method == "CreateSnapshotEx_Task" {
		sendFault(reply, "MethodNotFound", "Unable to find the method", `<receiver type="VirtualMachine">`+escape(q.this.Value)+
			`</receiver><method>CreateSnapshotEx_Task</method>`)
		return reply
	}
	after, refusal := v.prepare(q)
	if refusal != nil {
		failed := startTask(q.this, q.method, true, func() (types.AnyType, types.BaseMethodFault) { return nil, refusal })
		sendTask(reply, q.method, failed)
		return reply
	}
	v.passOn(reply, q)
	if q.putBack != nil {
		q.putBack()
	}
	task := taskIn(reply.Body.Bytes())
	if task == nil {
		return reply
	}
	makeReadable(task, q.owner)
	if task.Info.State == types.TaskInfoStateSuccess && after != nil {
		if err := after(task); err != nil {
			failTask(task, &types.SystemError{Reason: err.Error()})
		}
	}
	v.record(task, q.stockMethod())
	return reply
}

func (v *vcenter) passOn(reply *httptest.ResponseRecorder, q *request) {
	inner := q.http.Clone(context.Background())
	inner.Body = io.NopCloser(bytes.NewReader(q.body))
	inner.ContentLength = int64(len(q.body))
	if !q.loggedIn { // the stock simulator still knows a session that was dropped here, and would refuse a new Login
		inner.Header.Del("Cookie")
	}
	defer func() {
		switch problem := recover(); {
		case problem == nil:
		case q.method == "Fetch": // of an unset property: a real vCenter sends an empty response
			sendReply(reply, "Fetch", "")
		default:
			sendFault(reply, "SystemError", fmt.Sprint("vsim: ", problem), "<reason>"+escape(fmt.Sprint(problem))+"</reason>")
		}
	}()
	v.stock.ServeHTTP(reply, inner)
}

// makeReadable names an entity for the task that a client can decode: 0.24.2 puts a snapshot or a manager there, which
// are no managed entities.
func makeReadable(task *simulator.Task, owner *reference) {
	if task.Info.Entity == nil {
		return
	}
	switch task.Info.Entity.Type {
	case "VirtualMachineSnapshot":
		task.Info.Entity = owner
	case "VirtualDiskManager", "FileManager", "HostDatastoreBrowser":
		task.Info.Entity = nil
	}
}

func failTask(task *simulator.Task, fault types.BaseMethodFault) {
	simulator.Map.Update(task, []types.PropertyChange{
		{Name: "info.state", Val: types.TaskInfoStateError},
		{Name: "info.error", Val: types.LocalizedMethodFault{Fault: fault, LocalizedMessage: describe(fault)}},
	})
}

func describe(fault types.BaseMethodFault) string {
	text, _ := json.Marshal(fault)
	return fmt.Sprintf("%T %s", fault, text)
}

// startTask runs work as a task of its own on the VM that the object is or belongs to.
func startTask(this reference, method string, wait bool, work func() (types.AnyType, types.BaseMethodFault)) reference {
	object := simulator.Map.Get(this)
	if snapshot, ok := object.(*simulator.VirtualMachineSnapshot); ok {
		object = simulator.Map.Get(snapshot.Vm)
	}
	name := strings.ToLower(method[:1]) + strings.Replace(method[1:], "_Task", "Task", 1)
	task := simulator.CreateTask(object, name, func(*simulator.Task) (types.AnyType, types.BaseMethodFault) { return work() })
	makeReadable(task, nil)
	if wait {
		task.Run()
	} else {
		go task.Run()
	}
	return task.Self
}

// serveFaulty answers a call that a rule makes fail, or come late.
func (v *vcenter) serveFaulty(w http.ResponseWriter, q *request, due *rule) {
	delay := time.Duration(due.DelayMs) * time.Millisecond
	switch due.Mode {
	case modeDrop:
		time.Sleep(delay)
		if connection, _, err := w.(http.Hijacker).Hijack(); err == nil {
			connection.Close()
		}
	case modeHTTP503:
		time.Sleep(delay)
		w.WriteHeader(http.StatusServiceUnavailable)
	case modeDelay:
		time.Sleep(delay)
		v.serve(w, q)
	case modeTask:
		q.http = q.http.Clone(context.Background())
		sendTask(w, q.method, startTask(q.this, q.method, false, func() (types.AnyType, types.BaseMethodFault) {
			time.Sleep(delay)
			if fault := due.fault(q); fault != nil {
				return nil, fault
			}
			return v.resultOf(q)
		}))
	default:
		time.Sleep(delay)
		sendFault(w, due.Fault, due.Message, due.fieldsXML(q))
	}
}

func (v *vcenter) resultOf(q *request) (types.AnyType, types.BaseMethodFault) {
	task := taskIn(v.perform(q).Body.Bytes())
	switch {
	case task == nil:
		return nil, &types.SystemError{Reason: "vsim: the delayed call failed"}
	case task.Info.Error != nil:
		return nil, task.Info.Error.Fault
	default:
		return task.Info.Result, nil
	}
}
