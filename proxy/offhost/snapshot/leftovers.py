"""What a run that died left behind: found by what snapshots say of themselves, and removed.

Owns: which snapshot is a leftover. Only ours, by the installation's id, and only when the run that its description
names is provably dead; whatever else there is, is not touched. They are looked for when offhost starts, by the
daemon every ten minutes, since a run can also give up on a removal while it lives on, and on each VM before its backup.
"""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeAlias

from offhost.errors import Conflict, OffhostError
from offhost.ids import InstallationId, RunId, VmId
from offhost.snapshot.removal import Patience, remove_until_gone
from offhost.vsphere.inventory import vms
from offhost.vsphere.session import VSphere
from offhost.vsphere.snapshots import Owner, all_snapshots, owner_of
from offhost.vsphere.values import Snapshot, Vm

_log = logging.getLogger(__name__)

_A_BACKUP = timedelta(days=1)
"""What held a snapshot for longer is not expected to come back to it."""
_PATIENCE = Patience(times=1, wait_s=1.0)
"""Little: what stays is tried again before the VM's next backup."""


@dataclass(frozen=True, slots=True)
class Leftover:
    """A dead run's snapshots of a VM, and what became of them."""

    vm: str
    run: RunId
    problem: str | None
    """Why they could not be removed; None when they are gone."""


Claims: TypeAlias = Callable[[VmId], AbstractContextManager[object] | None]
"""Claims a VM for a scope, so that no run begins to work on it meanwhile; None when one works on it already."""


def _unclaimed(_vm: VmId) -> AbstractContextManager[object]:
    return nullcontext()


async def remove_leftovers(
    vsphere: VSphere, installation: InstallationId, is_dead: Callable[[RunId], bool], *, claim: Claims = _unclaimed
) -> list[Leftover]:
    """Remove the snapshots of this installation whose run is dead, one VM after the other.

    Each VM is claimed meanwhile; one that a run works on is left to it. One that cannot be removed is reported in the
    result and does not keep the others. Raises: what listing raises.
    """
    by_moref = {vm.moref: vm for vm in await vms(vsphere)}
    found: list[Leftover] = []
    for moref, tree in (await all_snapshots(vsphere)).items():
        vm = by_moref.get(moref)
        dead = _dead(tree, installation, is_dead)
        claimed = claim(vm.id) if vm is not None and dead else None
        if vm is not None and claimed is not None:
            with claimed:
                found += [await _removed(vsphere, vm, owner) for owner in dead]
    return found


async def remove_leftovers_of(
    vsphere: VSphere, vm: Vm, tree: list[Snapshot], installation: InstallationId, *, is_dead: Callable[[RunId], bool]
) -> list[Leftover]:
    """As `remove_leftovers`, of one VM, which the caller has claimed, and whose snapshots it has listed."""
    return [await _removed(vsphere, vm, owner) for owner in _dead(tree, installation, is_dead)]


def others_left(vm: Vm, tree: list[Snapshot], installation: InstallationId, now: datetime) -> list[str]:
    """What to say of snapshots that another installation of offhost left on a VM, which are never touched.

    Raises: Conflict when one is so young that its backup may be under way: one at a time.
    """
    others = [one for one in tree if (owner := owner_of(one)) and owner.installation != installation]
    young = [one for one in others if now - datetime.fromisoformat(one.created) < _A_BACKUP]
    if young:
        raise Conflict(
            f"{vm.name}: another installation of offhost has held a snapshot of it since {young[0].created}",
            hint="let one proxy back a VM up; if the other one is gone for good, remove its snapshot in vCenter",
        )
    return [
        f"{vm.name}: another installation of offhost left a snapshot of it at {one.created}; if that proxy is gone for "
        "good, remove it in vCenter"
        for one in others
    ]


def _dead(tree: list[Snapshot], installation: InstallationId, is_dead: Callable[[RunId], bool]) -> list[Owner]:
    """The dead owners of a tree's snapshots, each once, in the tree's order."""
    owners = dict.fromkeys(owner for snapshot in tree if (owner := owner_of(snapshot)))
    return [owner for owner in owners if owner.installation == installation and is_dead(owner.run)]


async def _removed(vsphere: VSphere, vm: Vm, owner: Owner) -> Leftover:
    problem: str | None = None
    try:
        await remove_until_gone(vsphere, vm, owner, settle=False, patience=_PATIENCE)
        _log.info("removed the snapshot that the dead run %s left on %s", owner.run, vm.name)
    except OffhostError as error:
        problem = str(error)
        _log.error("the snapshot that the dead run %s left on %s stays: %s", owner.run, vm.name, error)
    return Leftover(vm=vm.name, run=owner.run, problem=problem)
