package main

import (
	"context"
	"errors"
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"
)

// findPool is the pool of that path below the cluster's own, `Production/Web`, made where it is not there.
func (v *vcenter) findPool(path string) (reference, error) {
	at := defaultPool()
	for _, name := range strings.Split(path, "/") {
		if name == "" {
			continue
		}
		child := simulator.Map.FindByName(name, simulator.Map.Get(at).(*simulator.ResourcePool).ResourcePool.ResourcePool)
		if child != nil {
			at = child.Reference()
			continue
		}
		request := types.CreateResourcePool{This: at, Name: name, Spec: types.DefaultResourceConfigSpec()}
		reply := methods.CreateResourcePoolBody{}
		err := v.service.RoundTrip(context.Background(), &methods.CreateResourcePoolBody{Req: &request}, &reply)
		if err != nil {
			return at, err
		}
		at = reply.Res.Returnval
	}
	return at, nil
}

// setConnection is what vCenter knows of a VM whose host it has lost, or which its host has lost. Of one that vCenter
// has never seen well since it started, there is no configuration either.
func setConnection(vm *simulator.VirtualMachine, state string, forgotten bool) (interface{}, error) {
	switch connection := types.VirtualMachineConnectionState(state); connection {
	case types.VirtualMachineConnectionStateConnected, types.VirtualMachineConnectionStateDisconnected,
		types.VirtualMachineConnectionStateInaccessible, types.VirtualMachineConnectionStateOrphaned,
		types.VirtualMachineConnectionStateInvalid:
		simulator.Map.WithLock(vm, func() {
			vm.Runtime.ConnectionState = connection
			if forgotten {
				vm.Config = nil
			}
		})
		return answer{}, nil
	}
	return nil, errors.New("no such state: " + state)
}
