package main

import (
	"context"
	"net/http"
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"
	"github.com/vmware/govmomi/vim25/xml"
)

// descriptionIDs are vCenter's names for tasks, where the stock simulator uses its own (TaskDescription.methodInfo).
var descriptionIDs = map[string]string{
	"RevertToSnapshot_Task":        "vm.Snapshot.revert",
	"RevertToCurrentSnapshot_Task": "VirtualMachine.revertToCurrentSnapshot",
	"RemoveSnapshot_Task":          "vm.Snapshot.remove",
	"RemoveAllSnapshots_Task":      "VirtualMachine.removeAllSnapshots",
	"CreateSnapshot_Task":          "VirtualMachine.createSnapshot",
	"RelocateVM_Task":              "VirtualMachine.relocate",
	"ReconfigVM_Task":              "VirtualMachine.reconfigure",
}

// record posts the event of a finished task on a VM, as vCenter does and the stock simulator does not.
func (v *vcenter) record(task *simulator.Task, method string) {
	id := descriptionIDs[method]
	if id == "" || task.Info.Entity == nil {
		return
	}
	vm := findVM(task.Info.Entity.Value)
	if vm == nil {
		return
	}
	task.Info.DescriptionId, task.Info.EntityName = id, vm.Name
	v.post(vm, &types.TaskEvent{Event: types.Event{FullFormattedMessage: "Task: " + id}, Info: task.Info})
}

func (v *vcenter) post(vm *simulator.VirtualMachine, event types.BaseEvent) {
	event.GetEvent().Vm = &types.VmEventArgument{EntityEventArgument: types.EntityEventArgument{Name: vm.Name}, Vm: vm.Self}
	request := types.PostEvent{This: simulator.Map.EventManager().Self, EventToPost: event}
	reply := methods.PostEventBody{}
	_ = v.service.RoundTrip(context.Background(), &methods.PostEventBody{Req: &request}, &reply)
}

// queryEvents holds the answer to the time that was asked for, which the stock simulator does not look at.
func (v *vcenter) queryEvents(w http.ResponseWriter, args *types.QueryEvents) {
	reply := methods.QueryEventsBody{}
	if err := v.service.RoundTrip(context.Background(), &methods.QueryEventsBody{Req: args}, &reply); err != nil {
		sendFault(w, "InvalidArgument", err.Error(), "")
		return
	}
	var out strings.Builder
	encoder := xml.NewEncoder(&out)
	for _, event := range reply.Res.Returnval {
		if !within(args.Filter.Time, event) {
			continue
		}
		wrapped := struct {
			XMLName   xml.Name        `xml:"returned"`
			Returnval types.BaseEvent `xml:"returnval,typeattr"`
		}{Returnval: event}
		if err := encoder.Encode(wrapped); err != nil {
			sendFault(w, "SystemError", err.Error(), "<reason>encoding</reason>")
			return
		}
	}
	sendReply(w, "QueryEvents", strings.NewReplacer("<returned>", "", "</returned>", "").Replace(out.String()))
}

func within(asked *types.EventFilterSpecByTime, event types.BaseEvent) bool {
	created := event.GetEvent().CreatedTime
	if asked == nil {
		return true
	}
	return (asked.BeginTime == nil || !created.Before(*asked.BeginTime)) && (asked.EndTime == nil || !created.After(*asked.EndTime))
}
