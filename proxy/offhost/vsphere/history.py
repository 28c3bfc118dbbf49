"""What was done to a VM lately, as the endpoint's events tell.

Owns: the question whether a VM was reverted. Events are of the endpoint's clock, so that the question is put as an
elapsed time, which clocks that differ by a constant agree on.
"""

from datetime import timedelta

from pyVmomi import vim

from offhost.vsphere.session import VSphere
from offhost.vsphere.soap import Live
from offhost.vsphere.values import Vm

_ANSWER_LIMIT = 1000
"""QueryEvents answers with no more: beyond that, something may have been left out."""


async def reverted_within(vsphere: VSphere, vm: Vm, elapsed: timedelta) -> bool:
    """Whether a VM was, or may have been, reverted to a snapshot within the time before now.

    Raises: VSphereError when the events cannot be read.
    """

    def call(live: Live) -> bool:
        now = vim.ServiceInstance("ServiceInstance", live.stub).CurrentTime()
        spec = vim.event.EventFilterSpec(
            entity=vim.event.EventFilterSpec.ByEntity(entity=live.vm(vm.moref), recursion="self"),
            time=vim.event.EventFilterSpec.ByTime(beginTime=now - elapsed),
            disableFullMessage=True,
        )
        manager = live.content.eventManager
        assert manager is not None, "every vSphere endpoint has an event manager"
        events = manager.QueryEvent(spec)
        return len(events) >= _ANSWER_LIMIT or any(_is_revert(event) for event in events)

    return await vsphere.read(call, f"asking whether {vm.name} was reverted")


def _is_revert(event: object) -> bool:
    """By the task's name: `vm.Snapshot.revert` or `VirtualMachine.revertToCurrentSnapshot`, begun or ended."""
    if not isinstance(event, vim.event.TaskEvent):
        return False
    return str(event.info.descriptionId).rpartition(".")[2].startswith("revert")
