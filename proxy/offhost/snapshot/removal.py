"""Our snapshot's removal: it happens, or somebody is told.

Owns: patience, and the search for a snapshot whose creation was cut off before we learnt of it. Snapshots are found
by the run in their description, so that nothing depends on what this process remembers.
"""

import asyncio
import logging
from dataclasses import dataclass

from offhost.errors import LoginFailed, OffhostError, PermissionDenied, VmGone
from offhost.vsphere.session import VSphere
from offhost.vsphere.snapshots import Owner, consolidation_needed, creation_settled, owner_of, remove, snapshots
from offhost.vsphere.values import Vm

_log = logging.getLogger(__name__)
_HOPELESS = (LoginFailed, PermissionDenied)


@dataclass(frozen=True, slots=True)
class Patience:
    """How often a removal is tried again, and how long the first wait is; each further one is twice as long."""

    times: int = 6
    wait_s: float = 2.0


async def remove_ours(vsphere: VSphere, vm: Vm, owner: Owner, *, settle: bool, patience: Patience) -> list[str]:
    """Remove every snapshot that this run made of the VM; returns warnings, and raises nothing.

    `settle`: first wait for a creation that may still be under way. A failure is an error in the log and a warning
    with the VM's name and the run: the next start removes what stayed.
    """
    failure: OffhostError | None = None
    for attempt in range(patience.times + 1):
        if attempt:
            await asyncio.sleep(patience.wait_s * 2 ** (attempt - 1))
        try:
            return await _try(vsphere, vm, owner, settle=settle)
        except OffhostError as error:
            _log.warning("removing the snapshot of run %s of %s: %s", owner.run, vm.name, error)
            failure = error
            if isinstance(error, _HOPELESS):
                break
    warning = f"{vm.name}: the snapshot of run {owner.run} could not be removed: {failure}"
    _log.error("%s", warning)
    return [warning]


async def _try(vsphere: VSphere, vm: Vm, owner: Owner, *, settle: bool) -> list[str]:
    try:
        if settle:
            await creation_settled(vsphere, vm)
        for snapshot in await snapshots(vsphere, vm):
            if owner_of(snapshot) == owner:
                await _remove(vsphere, vm, snapshot.moref)
        needed = await consolidation_needed(vsphere, vm)
    except VmGone:
        return []
    return [f"{vm.name}: its disks need consolidation after the snapshot's removal"] if needed else []


async def _remove(vsphere: VSphere, vm: Vm, snapshot: str) -> None:
    try:
        await remove(vsphere, vm, snapshot)
    except VmGone:
        _log.info("the snapshot %s of %s was removed by somebody else", snapshot, vm.name)
