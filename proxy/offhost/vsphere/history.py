"""What was done to a VM lately, as the endpoint's events tell.

Owns: the question whether a VM was reverted. Events are of the endpoint's clock, so that the question is put in that
clock's time, too, and no clock of ours matters.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from pyVmomi import vim

from offhost.vsphere.session import VSphere
from offhost.vsphere.soap import Live
from offhost.vsphere.values import Vm

_EVENTS = 1000
"""As many as one page can have; where there are more, one may have been a revert."""


async def current_time(vsphere: VSphere) -> datetime:
    """The endpoint's own clock: what its events are dated by."""
    return await vsphere.read(_current_time, "reading the endpoint's clock")


async def reverted_since(vsphere: VSphere, vm: Vm, since: datetime) -> bool:
    """Whether a VM was, or may have been, reverted to a snapshot since a time of the endpoint's clock.

    A clock that was set back to before that time is a doubt: what happened since may be dated earlier.
    Raises: VSphereError when the events cannot be read.
    """

    def call(live: Live) -> bool:
        if _current_time(live) < since:
            return True
        spec = vim.event.EventFilterSpec(
            entity=vim.event.EventFilterSpec.ByEntity(entity=live.vm(vm.moref), recursion="self"),
            time=vim.event.EventFilterSpec.ByTime(beginTime=since),
            disableFullMessage=True,
        )
        events = _oldest(live, spec)
        return len(events) >= _EVENTS or any(event.createdTime >= since and _is_revert(event) for event in events)

    return await vsphere.read(call, f"asking whether {vm.name} was reverted")


def _current_time(live: Live) -> datetime:
    return vim.ServiceInstance("ServiceInstance", live.stub).CurrentTime().astimezone(UTC)


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
