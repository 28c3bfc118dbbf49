package main

import (
	"context"
	"errors"
	"reflect"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// direct calls the stock simulator without SOAP, with the same looks before and work after as a client's call gets.
func (v *vcenter) direct(this reference, args interface{}) (types.AnyType, error) {
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
func (v *vcenter) roundTrip(args interface{}) (reference, error) {
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
		return reference{}, err
	}
	result := reflect.ValueOf(reply).Elem().FieldByName("Res").Elem().FieldByName("Returnval")
	return result.Interface().(reference), nil
}
