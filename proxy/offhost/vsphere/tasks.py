"""vSphere's long-running tasks, waited for.

Owns: waiting. Tasks are polled by leaf paths: pyVmomi cannot decode the `info` of tasks on snapshots or files, and its
own WaitForTask shares one collector between sessions.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from pyVmomi import vim, vmodl

from offhost.aio import in_thread, shielded
from offhost.vsphere.changes import Changing
from offhost.vsphere.faults import translated
from offhost.vsphere.properties import Row, moref, properties
from offhost.vsphere.session import VSphere
from offhost.vsphere.soap import Live
from offhost.vsphere.values import Vm

_POLL_FIRST_S = 0.05
_POLL_LAST_S = 2.0
_ENDED = ("success", "error")


async def finished(vsphere: VSphere, start: Callable[[Live], vim.Task], doing: str, of: Vm | str) -> Any:
    """Start a task that changes something, and wait for its end; returns its result.

    A cancellation lets the task come to its end first: what it made must be known to be removed again.
    Raises: the task's fault as an OffhostError; SessionLost when nobody knows whether it was started.
    """
    return await shielded(_run(vsphere, start, vsphere.changing(doing, of)))


async def _run(vsphere: VSphere, start: Callable[[Live], vim.Task], change: Changing) -> Any:
    try:
        task = await vsphere.made(change, lambda live: moref(start(live)))
        row = await _ended(vsphere, task, change.what)
    except BaseException as error:
        await in_thread(partial(change.ended, error, told=False))
        raise
    fault = None if row["info.state"] == "success" else row.get("info.error")
    if row["info.state"] != "success" and not isinstance(fault, vmodl.MethodFault):
        fault = vmodl.fault.SystemError(reason="the task failed without saying why")
    await in_thread(change.ended, fault)
    if fault is None:
        return row.get("info.result")
    raise translated(fault, f"{vsphere.endpoint.host}: {change.what}") from fault


async def _ended(vsphere: VSphere, task: str, doing: str) -> Row:
    """The task's state once it has ended, then its outcome: a result is not read while it may still be written."""
    wait_s = _POLL_FIRST_S
    while (await _read(vsphere, task, ["info.state"], doing))["info.state"] not in _ENDED:
        await asyncio.sleep(wait_s)
        wait_s = min(wait_s * 1.5, _POLL_LAST_S)
    return await _read(vsphere, task, ["info.state", "info.error", "info.result"], doing)


async def _read(vsphere: VSphere, task: str, paths: list[str], doing: str) -> Row:
    def call(live: Live) -> Row:
        return properties(live, vim.Task, [live.object(vim.Task, task)], paths)[task]

    return await vsphere.read(call, doing)


async def settled(vsphere: VSphere, vm: str, description_id: str) -> None:
    """Wait until no task of this kind is under way on a VM: one, for instance, whose start was lost on the wire.

    `description_id` is the beginning of the kind's name, `VirtualMachine.createSnapshot`.
    """
    wait_s = _POLL_FIRST_S
    while await vsphere.read(lambda live: _under_way(live, vm, description_id), "looking for tasks under way"):
        await asyncio.sleep(wait_s)
        wait_s = min(wait_s * 1.5, _POLL_LAST_S)


def _under_way(live: Live, vm: str, description_id: str) -> bool:
    manager = live.content.taskManager
    assert manager is not None, "every vSphere endpoint has a task manager"
    recent = properties(live, vim.TaskManager, [manager], ["recentTask"])[moref(manager)].get("recentTask", [])
    try:
        rows = properties(live, vim.Task, recent, ["info.state", "info.descriptionId"])
        alike = [
            live.object(vim.Task, task)
            for task, row in rows.items()
            if str(row.get("info.descriptionId")).startswith(description_id) and row.get("info.state") not in _ENDED
        ]
        on = properties(live, vim.Task, alike, ["info.entity"])
    except vmodl.fault.ManagedObjectNotFound:
        return True  # one of them has just left the list: look again
    return any("info.entity" in row and moref(row["info.entity"]) == vm for row in on.values())
