"""Switching VMs off and on, and where their files lie.

Owns: the calls. Does not own: when, how often, and what is promised about it (backup.powered_off).
"""

from pyVmomi import vim

from offhost.errors import VSphereError
from offhost.vsphere.properties import all_of
from offhost.vsphere.session import VSphere
from offhost.vsphere.soap import Live
from offhost.vsphere.tasks import finished
from offhost.vsphere.values import Vm

_VMX = "config.files.vmPathName"


async def ask_to_shut_down(vsphere: VSphere, vm: Vm) -> None:
    """Ask the guest to shut down, and return at once: it does so when it likes, or never.

    Raises: VSphereError when nobody is there to be asked; SessionLost when it is not known whether it was.
    """

    def call(live: Live) -> None:
        try:
            live.vm(vm.moref).ShutdownGuest()
        except vim.fault.ToolsUnavailable as fault:
            raise VSphereError(
                f"{vm.name}: its guest cannot be asked to shut down: VMware Tools is not running in it",
                hint="start VMware Tools in the guest, or write force_off: true to have such a VM switched off",
            ) from fault

    await vsphere.change(call, f"asking the guest of {vm.name} to shut down", vm)


async def switch_off(vsphere: VSphere, vm: Vm) -> None:
    """Switch a VM off as by its power button. Raises: VSphereError."""
    await finished(vsphere, lambda live: live.vm(vm.moref).PowerOff(), f"switching {vm.name} off", vm)


async def switch_on(vsphere: VSphere, vm: Vm) -> None:
    """Switch a VM on. Raises: VSphereError."""
    await finished(vsphere, lambda live: live.vm(vm.moref).PowerOn(None), f"switching {vm.name} on", vm)


async def vmx_paths(vsphere: VSphere) -> dict[str, str]:
    """The datastore path of each VM's .vmx, `[datastore] folder/file`, by the VM's moref."""
    rows = await vsphere.read(lambda live: all_of(live, {vim.VirtualMachine: [_VMX]}), "looking where VMs lie")
    return {ref: str(row[_VMX]) for ref, row in rows.items() if _VMX in row}
