"""Snapshots of VMs: create, list, remove, and whose they are.

Owns: the calls and the description that carries the owner. Does not own: when a snapshot is due, or how often its
removal is tried (`snapshot`). A snapshot that is not ours is never touched, ours never with its children.
"""

import re
from dataclasses import dataclass
from datetime import UTC
from typing import Any

from pyVmomi import vim, vmodl

from offhost.ids import InstallationId, RunId
from offhost.vsphere.inventory import power_state
from offhost.vsphere.properties import Row, all_of, moref, properties
from offhost.vsphere.session import VSphere
from offhost.vsphere.soap import Live
from offhost.vsphere.tasks import finished, settled
from offhost.vsphere.values import Snapshot, Vm, VssOptions

NAME = "offhost backup"
_OURS = re.compile(r"offhost backup: installation ([0-9a-f]{32}) run ([0-9a-f]{32})\b")
_CREATING = "VirtualMachine.createSnapshot"
_ROOTS = "snapshot.rootSnapshotList"
TREE_PATHS = (_ROOTS, "snapshot.currentSnapshot")
_LAYOUT_PATHS = ("layoutEx.file", "layoutEx.disk")
_VSS_BACKUP_TYPES = {"full": 1, "incremental": 2, "differential": 3, "log": 4, "copy": 5, "other": 6}
"""VSS_BACKUP_TYPE, as Microsoft numbers it."""
_SHORTEST_QUIESCE_MINUTES, _LONGEST_QUIESCE_MINUTES = 5, 240


@dataclass(frozen=True, slots=True)
class Owner:
    """Who made a snapshot: an installation of offhost, in one of its runs."""

    installation: InstallationId
    run: RunId

    def description(self) -> str:
        """What the snapshot's description says, to us and to administrators who come across it."""
        return (
            f"offhost backup: installation {self.installation} run {self.run}. "
            "Removed when the backup ends; do not revert to it."
        )


def owner_of(snapshot: Snapshot) -> Owner | None:
    """Whose snapshot this is; None for everybody else's."""
    found = _OURS.match(snapshot.description)
    return Owner(InstallationId(found[1]), RunId(found[2])) if found else None


async def create(
    vsphere: VSphere, vm: Vm, description: str, *, quiesce_minutes: int | None, vss: VssOptions | None = None
) -> str:
    """Take a snapshot without memory; returns its moref.

    `quiesce_minutes`: quiesce the guest, and give up after so long (5 to 240); None takes it as it is. `vss`: what a
    Windows guest is asked for; None for others. Where the API is older than both (before vSphere 6.5), the guest is
    quiesced as it will. On a cancellation the snapshot is complete before the cancellation goes on.
    Raises: QuiesceFailed, SnapshotFailed, VSphereError.
    """

    def start(live: Live) -> vim.Task:
        target = live.vm(vm.moref)
        try:
            return target.CreateSnapshotEx(NAME, description, False, _quiesce_spec(quiesce_minutes, vss))
        except (vmodl.fault.MethodNotFound, vmodl.fault.NotImplemented):  # before vSphere 6.5
            return target.CreateSnapshot(NAME, description, False, quiesce_minutes is not None)

    return moref(await finished(vsphere, start, f"taking a snapshot of {vm.name}", vm))


async def creation_settled(vsphere: VSphere, vm: Vm) -> None:
    """Wait until no snapshot of the VM is being taken."""
    await settled(vsphere, vm.moref, _CREATING)


async def remove(vsphere: VSphere, vm: Vm, snapshot: str) -> None:
    """Remove one snapshot, not its children, and fold its delta. Raises: VmGone when it is gone already."""
    doing = f"removing the snapshot {snapshot} of {vm.name}"
    await finished(vsphere, lambda live: live.object(vim.vm.Snapshot, snapshot).Remove(False, True), doing, vm)


async def snapshots(vsphere: VSphere, vm: Vm) -> list[Snapshot]:
    """The VM's whole tree, parents before children."""

    def call(live: Live) -> list[Snapshot]:
        return tree_in(properties(live, vim.VirtualMachine, [live.vm(vm.moref)], TREE_PATHS)[vm.moref])

    return await vsphere.read(call, f"listing the snapshots of {vm.name}")


async def all_snapshots(vsphere: VSphere) -> dict[str, list[Snapshot]]:
    """The trees of all VMs that have one, by the VM's moref."""
    rows = await vsphere.read(lambda live: all_of(live, {vim.VirtualMachine: TREE_PATHS}), "listing all snapshots")
    return {vm: tree for vm, tree in ((vm, tree_in(row)) for vm, row in rows.items()) if tree}


async def tools_running(vsphere: VSphere, vm: Vm) -> bool:
    """Whether VMware Tools run in the guest now: without them nothing in it can have been quiesced."""
    path = "guest.toolsRunningStatus"
    row = await vsphere.read(
        lambda live: properties(live, vim.VirtualMachine, [live.vm(vm.moref)], [path])[vm.moref],
        f"reading whether VMware Tools run in {vm.name}",
    )
    return row.get(path) == "guestToolsRunning"


async def consolidation_needed(vsphere: VSphere, vm: Vm) -> bool:
    """Whether delta files stayed behind that no snapshot accounts for."""
    path = "runtime.consolidationNeeded"
    row = await vsphere.read(
        lambda live: properties(live, vim.VirtualMachine, [live.vm(vm.moref)], [path])[vm.moref],
        f"reading whether {vm.name} needs consolidation",
    )
    return bool(row.get(path))


async def consolidate_disks(vsphere: VSphere, vm: Vm) -> None:
    """Fold such delta files; snapshots that the VM has stay."""
    await finished(
        vsphere, lambda live: live.vm(vm.moref).ConsolidateVMDisks_Task(), f"consolidating the disks of {vm.name}", vm
    )


async def delta_bytes(vsphere: VSphere, vm: Vm) -> int:
    """How large the files are that a VM with a snapshot writes to now: the deltas of its newest one.

    As the host saw them last, which may be minutes ago (VirtualMachineFileLayoutEx.timestamp).
    """
    row = await vsphere.read(
        lambda live: properties(live, vim.VirtualMachine, [live.vm(vm.moref)], _LAYOUT_PATHS)[vm.moref],
        f"measuring the snapshot of {vm.name}",
    )
    sizes = {int(file.key): int(file.size) for file in row.get("layoutEx.file", ())}
    chains = [disk.chain for disk in row.get("layoutEx.disk", ())]
    return sum(sizes.get(int(key), 0) for chain in chains if len(chain) > 1 for key in chain[-1].fileKey)


def lineage(tree: list[Snapshot], snapshot: str) -> tuple[str, ...]:
    """From the root down to the parent of a snapshot, each with its time of creation.

    What a snapshot's disk holds descends from these. Changed areas since a base are believed only when its lineage is
    the beginning of this one.
    """
    by_moref = {one.moref: one for one in tree}
    return _descent(by_moref, by_moref[snapshot].parent)


def current_lineage(tree: list[Snapshot]) -> tuple[str, ...]:
    """The lineage that a snapshot would have if it were taken now."""
    current = next((one.moref for one in tree if one.current), None)
    return _descent({one.moref: one for one in tree}, current)


def _descent(by_moref: dict[str, Snapshot], at: str | None) -> tuple[str, ...]:
    above: list[str] = []
    while at is not None:
        above.append(f"{at}@{by_moref[at].created}")
        at = by_moref[at].parent
    return tuple(reversed(above))


def _quiesce_spec(minutes: int | None, vss: VssOptions | None) -> vim.vm.GuestQuiesceSpec | None:
    if minutes is None:
        return None
    timeout = min(max(minutes, _SHORTEST_QUIESCE_MINUTES), _LONGEST_QUIESCE_MINUTES)
    if vss is not None:
        return vim.vm.WindowsQuiesceSpec(
            timeout=timeout,
            vssBackupType=_VSS_BACKUP_TYPES[vss.backup_type],
            vssBackupContext=f"ctx_{vss.context}",
            vssBootableSystemState=vss.bootable_system_state,
            vssPartialFileSupport=vss.partial_file_support,
        )
    return vim.vm.GuestQuiesceSpec(timeout=timeout)


def tree_in(row: Row) -> list[Snapshot]:
    """The tree in a row of `TREE_PATHS`, parents before children.

    It is walked with a stack of its own: a tree is as deep as a VM's owner made it.
    """
    current = row.get("snapshot.currentSnapshot")
    waiting: list[tuple[Any, str | None]] = [(node, None) for node in reversed(row.get(_ROOTS, ()))]
    found: list[Snapshot] = []
    while waiting:
        node, parent = waiting.pop()
        ref = moref(node.snapshot)
        found.append(_snapshot(node, parent, current=current is not None and moref(current) == ref))
        waiting.extend((child, ref) for child in reversed(node.childSnapshotList))
    return found


def _snapshot(node: Any, parent: str | None, *, current: bool) -> Snapshot:
    return Snapshot(
        moref=moref(node.snapshot),
        id=int(node.id),
        name=str(node.name),
        description=str(node.description),
        parent=parent,
        created=node.createTime.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        quiesced=bool(node.quiesced),
        power=power_state(node.state),
        current=current,
        vss_manifest=str(node.backupManifest) if node.backupManifest else None,
    )
