package main

import (
	"net/http"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

const usualShutdown = 100 * time.Millisecond

// shutdownGuest asks the guest to shut down and returns at once; the VM goes off when the guest is done, or never.
// Without running Tools there is nobody to ask ("Web Services API Reference", ShutdownGuest).
func (v *vcenter) shutdownGuest(reply http.ResponseWriter, q *request) {
	vm := findVM(q.this.Value)
	switch {
	case vm == nil:
		sendFault(reply, "ManagedObjectNotFound", "no such object",
			`<obj type="VirtualMachine">`+escape(q.this.Value)+`</obj>`)
		return
	case vm.Runtime.PowerState != types.VirtualMachinePowerStatePoweredOn:
		sendFault(reply, "InvalidPowerState", "The VM is not powered on.",
			"<requestedState>poweredOn</requestedState><existingState>"+string(vm.Runtime.PowerState)+"</existingState>")
		return
	case vm.Guest == nil || vm.Guest.ToolsRunningStatus != string(types.VirtualMachineToolsRunningStatusGuestToolsRunning):
		sendFault(reply, "ToolsUnavailable", "VMware Tools is not running in this virtual machine.", "")
		return
	}
	takes, told := v.shutdowns[vm.Self.Value]
	if !told {
		takes = usualShutdown
	}
	if takes >= 0 {
		time.AfterFunc(takes, func() { v.goOff(vm) })
	}
	sendReply(reply, q.method, "")
}

func (v *vcenter) goOff(vm *simulator.VirtualMachine) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if vm.Runtime.PowerState != types.VirtualMachinePowerStatePoweredOn {
		return
	}
	if _, err := v.direct(vm.Self, &types.PowerOffVM_Task{This: vm.Self}); err == nil {
		v.startTools[vm.Self.Value] = true
		setTools(vm, false)
	}
}

// poweredOn lets a guest that was shut down come up again with its Tools, and runs what the VM boots into.
func (v *vcenter) poweredOn(vm *simulator.VirtualMachine) {
	v.stun(vm)
	if v.startTools[vm.Self.Value] {
		setTools(vm, true)
	}
	v.boot(vm)
}
