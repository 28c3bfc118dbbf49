"""Changed block tracking: switched on, and asked.

Owns: the paging of QueryChangedDiskAreas and the disbelief in its answers. Does not own: what a full read costs, or
whether the base still holds (`backup` compares lineages and disks).
"""

import re
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from pyVmomi import vim, vmodl

from offhost.errors import ChangeTrackingBroken, ChangeTrackingInvalid
from offhost.extents import Extent, ExtentMap
from offhost.vsphere.configuration import configuration
from offhost.vsphere.faults import said
from offhost.vsphere.properties import properties
from offhost.vsphere.session import VSphere
from offhost.vsphere.snapshots import snapshots
from offhost.vsphere.soap import Live
from offhost.vsphere.tasks import finished
from offhost.vsphere.values import Disk, Vm

_OLDEST_HARDWARE = 7
_SEQUENCE = re.compile(r"[0-9]{1,20}")
_UNKNOWN = (vmodl.fault.InvalidArgument, vmodl.fault.NotSupported)
"""What vSphere answers when it cannot say, beside the FileFault of a journal that is missing or damaged."""


Stun = Callable[[], Awaitable[None]]
"""Takes a snapshot of the VM and removes it at once: a change of the switch takes effect at that."""


async def enable(vsphere: VSphere, vm: Vm, stun: Stun) -> None:
    """Switch tracking on for a VM and make it active.

    Tracking begins at a stun, and vSphere refuses or corrupts it when snapshots are there (KB 1020128).
    Raises: ChangeTrackingInvalid with the reason when it cannot be on; what `stun` raises.
    """
    version = (await configuration(vsphere, vm)).hardware_version
    if version < _OLDEST_HARDWARE:
        raise ChangeTrackingInvalid(
            f"{vm.name}: virtual hardware {version} has no change tracking",
            hint=f"upgrade the virtual hardware to {_OLDEST_HARDWARE} or later",
        )
    if await snapshots(vsphere, vm):
        raise ChangeTrackingInvalid(
            f"{vm.name}: change tracking cannot be switched on while there are snapshots",
            hint="remove the VM's snapshots; the next backup switches it on",
        )
    await _reconfigure(vsphere, vm, enabled=True)
    await stun()
    if not await is_enabled(vsphere, vm):
        raise ChangeTrackingInvalid(f"{vm.name}: change tracking is still off after it was switched on")


async def renew(vsphere: VSphere, vm: Vm, stun: Stun) -> None:
    """Switch tracking off and on again, each followed by a stun, as VMware advises for a damaged journal (KB 2139574).

    Bases of before are worthless afterwards. Raises: as `enable`, also while there are snapshots: nothing is then done.
    """
    if await snapshots(vsphere, vm):
        raise ChangeTrackingInvalid(f"{vm.name}: change tracking cannot be renewed while there are snapshots")
    await _reconfigure(vsphere, vm, enabled=False)
    await stun()
    await enable(vsphere, vm, stun)


async def is_enabled(vsphere: VSphere, vm: Vm) -> bool:
    """What the VM's configuration says now; whether a disk is tracked, its change id says."""
    path = "config.changeTrackingEnabled"
    row = await vsphere.read(
        lambda live: properties(live, vim.VirtualMachine, [live.vm(vm.moref)], [path])[vm.moref],
        f"reading whether {vm.name} tracks changes",
    )
    return bool(row.get(path))


async def changed_areas(vsphere: VSphere, vm: Vm, disk: Disk, *, snapshot: str, base_change_id: str) -> ExtentMap:
    """What changed on a disk from its base to the snapshot: exact areas, rounded to the tracking grain.

    `disk` is of the snapshot's configuration.
    Raises: ChangeTrackingInvalid with the reason whenever the answer is missing or not to be believed.
    """
    _same_tracking(disk, base_change_id)
    areas: list[Extent] = []
    at = 0
    while at < disk.capacity_bytes:
        call = _query(vm, disk, snapshot, at=at, base=base_change_id)
        page = await vsphere.read(call, f"asking what changed on {disk.label} of {vm.name}")
        areas.extend(_believed(page, at, disk))
        at += int(page.length)
    return ExtentMap(areas)


async def _reconfigure(vsphere: VSphere, vm: Vm, *, enabled: bool) -> None:
    spec = vim.vm.ConfigSpec(changeTrackingEnabled=enabled)
    doing = f"switching change tracking {'on' if enabled else 'off'} for {vm.name}"
    await finished(vsphere, lambda live: live.vm(vm.moref).Reconfigure(spec), doing, vm)


def _same_tracking(disk: Disk, base_change_id: str) -> None:
    """A change id is `<uuid>/<sequence>`; another UUID means that tracking was off in between, or another disk, and a
    sequence that went back, that the disk did.
    """
    if disk.change_id is None:
        raise ChangeTrackingInvalid(f"{disk.label}: change tracking is off")
    (uuid, _, at), (base_uuid, _, base_at) = disk.change_id.partition("/"), base_change_id.partition("/")
    if uuid != base_uuid:
        raise ChangeTrackingInvalid(f"{disk.label}: change tracking was started anew since the base")
    if not (_SEQUENCE.fullmatch(at) and _SEQUENCE.fullmatch(base_at) and int(base_at) <= int(at)):
        raise ChangeTrackingInvalid(f"{disk.label}: its change id, {at}, does not follow that of the base, {base_at}")


def _query(vm: Vm, disk: Disk, snapshot: str, *, at: int, base: str) -> Any:
    def call(live: Live) -> Any:
        frozen = live.object(vim.vm.Snapshot, snapshot)
        try:
            return live.vm(vm.moref).QueryChangedDiskAreas(frozen, disk.device_key, at, base)
        except vim.fault.FileFault as fault:
            raise ChangeTrackingBroken(f"{disk.label}: vSphere cannot say what changed: {said(fault)}") from fault
        except _UNKNOWN as fault:
            raise ChangeTrackingInvalid(f"{disk.label}: vSphere cannot say what changed: {said(fault)}") from fault

    return call


def _believed(page: Any, asked: int, disk: Disk) -> Iterator[Extent]:
    """The areas of one answer, in order, disjoint and within it.

    An answer that covers nothing would be asked for ever again (Bareos pull request 2152).
    """
    start, length = int(page.startOffset), int(page.length)
    if start != asked or length <= 0 or start + length > disk.capacity_bytes:
        raise _nonsense(disk, f"an answer for [{start}, {start + length}) to a question from {asked}")
    at = start
    for area in page.changedArea:
        low, high = int(area.start), int(area.start) + int(area.length)
        if not at <= low < high <= start + length:
            raise _nonsense(disk, f"an area [{low}, {high}) after {at} in an answer up to {start + length}")
        yield Extent(low, high)
        at = high


def _nonsense(disk: Disk, what: str) -> ChangeTrackingInvalid:
    return ChangeTrackingInvalid(f"{disk.label}: the answer on changed areas contradicts itself: {what}")
