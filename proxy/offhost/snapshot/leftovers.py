"""What a run that died left behind: found by what snapshots say of themselves, and removed.

Owns: which snapshot is a leftover. Only ours, by the installation's id, and only when the run that its description
names is provably dead; whatever else there is, is not touched. Consolidation is reported, never done.
"""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TypeAlias

from offhost.errors import OffhostError
from offhost.ids import InstallationId, RunId, VmId
from offhost.vsphere.inventory import vms
from offhost.vsphere.session import VSphere
from offhost.vsphere.snapshots import all_snapshots, owner_of, remove
from offhost.vsphere.values import Snapshot, Vm

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Leftover:
    """A snapshot of a dead run, and what became of it."""

    vm: str
    snapshot: str
    run: RunId
    problem: str | None
    """Why it could not be removed; None when it is gone."""


Claims: TypeAlias = Callable[[VmId], AbstractContextManager[object] | None]
"""Claims a VM for a scope, so that no run begins to work on it meanwhile; None when one works on it already."""


def _unclaimed(_vm: VmId) -> AbstractContextManager[object]:
    return nullcontext()


async def remove_leftovers(
    vsphere: VSphere, installation: InstallationId, is_dead: Callable[[RunId], bool], *, claim: Claims = _unclaimed
) -> list[Leftover]:
    """Remove the snapshots of this installation whose run is dead, one after the other.

    Each VM is claimed meanwhile; one that a run works on is left to it. One that cannot be removed is reported in the
    result and does not keep the others. Raises: what listing raises.
    """
    by_moref = {vm.moref: vm for vm in await vms(vsphere)}
    found: list[Leftover] = []
    for moref, tree in (await all_snapshots(vsphere)).items():
        vm = by_moref.get(moref)
        dead = [(snapshot, run) for snapshot in tree if (run := _dead_run(snapshot, installation, is_dead))]
        claimed = claim(vm.id) if vm is not None and dead else None
        if vm is not None and claimed is not None:
            with claimed:
                found += [await _removed(vsphere, vm, snapshot, run) for snapshot, run in dead]
    return found


def _dead_run(snapshot: Snapshot, installation: InstallationId, is_dead: Callable[[RunId], bool]) -> RunId | None:
    owner = owner_of(snapshot)
    if owner is None or owner.installation != installation or not is_dead(owner.run):
        return None
    return owner.run


async def _removed(vsphere: VSphere, vm: Vm, snapshot: Snapshot, run: RunId) -> Leftover:
    problem: str | None = None
    try:
        await remove(vsphere, vm, snapshot.moref)
        _log.info("removed the snapshot that the dead run %s left on %s", run, vm.name)
    except OffhostError as error:
        problem = str(error)
        _log.error("the snapshot that the dead run %s left on %s stays: %s", run, vm.name, error)
    return Leftover(vm=vm.name, snapshot=snapshot.moref, run=run, problem=problem)
