"""Our snapshot's removal: a fresh listing shows it gone, or somebody is told.

Owns: the one idea of success, patience, the search for a snapshot whose creation was cut off before we learnt of it,
and for a VM that was registered anew meanwhile. Snapshots are found by the run in their description, so that nothing
depends on what this process remembers.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from offhost.errors import OffhostError, PermissionDenied, SnapshotFailed, VmGone
from offhost.vsphere.inventory import as_it_is_now
from offhost.vsphere.session import VSphere
from offhost.vsphere.snapshots import (
    Owner,
    consolidate_disks,
    consolidation_needed,
    creation_settled,
    owner_of,
    remove,
    snapshots,
)
from offhost.vsphere.values import Snapshot, Vm

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Patience:
    """How often a removal is tried again, and how long the first wait is; each further one is twice as long."""

    times: int = 6
    wait_s: float = 2.0


class RemovalTurns:
    """Who may remove snapshots: so many at once on each datastore of an endpoint. Of one event loop.

    A removal writes the deltas back into the disks below, which is the heaviest load that a backup brings.
    """

    def __init__(self, at_once: int = 2) -> None:
        self._at_once = at_once
        self._turns: dict[str, asyncio.Semaphore] = {}

    @asynccontextmanager
    async def on(self, datastores: Iterable[str]) -> AsyncIterator[None]:
        """Wait for a turn on all of these, and have it for the scope; taken in one order by all: no deadlock."""
        async with AsyncExitStack() as turns:
            for name in sorted(set(datastores)):
                turn = self._turns.setdefault(name, asyncio.Semaphore(self._at_once))
                await turns.enter_async_context(turn)
            yield


async def remove_ours(
    vsphere: VSphere, vm: Vm, owner: Owner, *, settle: bool, patience: Patience, consolidate: bool = False
) -> list[str]:
    """Remove every snapshot that this run made of the VM; returns warnings, and raises nothing.

    A failure is an error in the log and a warning with the VM's name and the run: the VM's next backup, and the next
    start, remove what stayed.
    """
    try:
        present = await remove_until_gone(vsphere, vm, owner, settle=settle, patience=patience)
    except Exception as error:  # noqa: BLE001 - whatever it is, what stays on the VM must be told with its name
        warning = f"{vm.name}: the snapshot of run {owner.run} could not be removed: {error}"
        _log.error("%s", warning, exc_info=not isinstance(error, OffhostError))
        return [warning]
    return await consolidated(vsphere, present, may=consolidate)


async def consolidated(vsphere: VSphere, vm: Vm, *, may: bool) -> list[str]:
    """Fold delta files that no snapshot accounts for, where there are any and it may be done; returns warnings."""
    try:
        if not await consolidation_needed(vsphere, vm):
            return []
        if may:
            await consolidate_disks(vsphere, vm)
            _log.info("the disks of %s are consolidated", vm.name)
            return []
    except OffhostError as error:
        return [f"{vm.name}: its disks may need consolidation, and it failed: {error}"]
    return [f"{vm.name}: its disks need consolidation, which the job does only with `consolidate: true`"]


async def remove_until_gone(vsphere: VSphere, vm: Vm, owner: Owner, *, settle: bool, patience: Patience) -> Vm:
    """Remove every snapshot of an owner; return, with the VM as it was found, when a fresh listing shows none.

    A task that ended, or that vCenter forgot, proves nothing. `settle`: first wait for a creation that may still be
    under way. A VM that is gone is looked for once, by its identity: it may have been registered anew.
    Raises: what the last attempt raised; PermissionDenied at once; VmGone when the VM is not there any more.
    """
    removal = _Removal(vsphere, vm, owner, settle)
    for attempt in range(patience.times):
        try:
            return await removal.attempt()
        except (PermissionDenied, VmGone):
            raise
        except OffhostError as error:
            _log.warning("removing the snapshot of run %s of %s: %s", owner.run, vm.name, error)
        await asyncio.sleep(patience.wait_s * 2**attempt)
    return await removal.attempt()


class _Removal:
    """One owner's snapshots of one VM, on their way out."""

    def __init__(self, vsphere: VSphere, vm: Vm, owner: Owner, settle: bool) -> None:
        self._vsphere, self._vm, self._owner, self._settle = vsphere, vm, owner, settle
        self._looked_up = False

    async def attempt(self) -> Vm:
        """Return when none is left. Raises: why one is."""
        try:
            await self._once()
        except VmGone:
            if self._looked_up:
                raise
            self._vm = await as_it_is_now(self._vsphere, self._vm)
            self._looked_up = True
            await self._once()
        return self._vm

    async def _once(self) -> None:
        """Raises VmGone for the VM only: that of a task or a snapshot is settled by the listing."""
        if self._settle:
            await creation_settled(self._vsphere, self._vm)
        found = await self._ours()
        problems = [problem for one in found if (problem := await self._removed(one))]
        if not found or not await self._ours():
            return
        for problem in problems:
            if not isinstance(problem, VmGone):
                raise problem
        raise SnapshotFailed(
            f"{self._vm.name}: vCenter still lists the snapshot after its removal",
            hint="look at the VM's tasks in vCenter",
        )

    async def _ours(self) -> list[Snapshot]:
        return [one for one in await snapshots(self._vsphere, self._vm) if owner_of(one) == self._owner]

    async def _removed(self, snapshot: Snapshot) -> OffhostError | None:
        """What kept one from being removed does not keep the next."""
        try:
            await remove(self._vsphere, self._vm, snapshot.moref)
        except OffhostError as error:
            _log.info("removing the snapshot %s of %s: %s", snapshot.moref, self._vm.name, error)
            return error
        return None
