"""What was done to a VM lately, as the endpoint's events tell.

Owns: the question whether a VM was reverted. Events are of the endpoint's clock, so that the question is put as an
elapsed time, which clocks that differ by a constant agree on.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from pyVmomi import vim

from offhost.vsphere.session import VSphere
from offhost.vsphere.soap import Live
from offhost.vsphere.values import Vm

_EVENTS = 1000
"""As many as one page can have; where there are more, one may have been a revert."""


async def reverted_within(vsphere: VSphere, vm: Vm, elapsed: timedelta) -> bool:
    """Whether a VM was, or may have been, reverted to a snapshot within the time before now.

    Raises: VSphereError when the events cannot be read.
    """

    def call(live: Live) -> bool:
        since = vim.ServiceInstance("ServiceInstance", live.stub).CurrentTime() - elapsed
        spec = vim.event.EventFilterSpec(
            entity=vim.event.EventFilterSpec.ByEntity(entity=live.vm(vm.moref), recursion="self"),
            time=vim.event.EventFilterSpec.ByTime(beginTime=since),
            disableFullMessage=True,
        )
        events = _oldest(live, spec)
        return len(events) >= _EVENTS or any(event.createdTime >= since and _is_revert(event) for event in events)

    return await vsphere.read(call, f"asking whether {vm.name} was reverted")


def _oldest(live: Live, spec: Any) -> Sequence[Any]:
    """The first page of events from the oldest on; without a page size of our own it would have ten."""
    manager = live.content.eventManager
    assert manager is not None, "every vSphere endpoint has an event manager"
    collector = manager.CreateCollector(spec)
    try:
        collector.SetLatestPageSize(_EVENTS)
        return list(collector.ReadNext(_EVENTS))
    finally:
        collector.Remove()


def _is_revert(event: object) -> bool:
    """By the task's name: `vm.Snapshot.revert` or `VirtualMachine.revertToCurrentSnapshot`, begun or ended."""
    if not isinstance(event, vim.event.TaskEvent):
        return False
    return str(event.info.descriptionId).rpartition(".")[2].startswith("revert")
