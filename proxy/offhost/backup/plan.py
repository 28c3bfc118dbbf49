"""What a backup of a VM would do, disk by disk, and why: asked of vSphere and the repository, touching nothing.

What only the snapshot would show (its chain, its change ids) is told as the VM is now.
"""

from dataclasses import replace

from offhost.aio import in_thread
from offhost.backup.base import base_disk, full_read_reason
from offhost.backup.report import DiskPlan, Problem, VmPlan
from offhost.backup.vm import VmBackup
from offhost.errors import OffhostError
from offhost.repository.points.manifest import PointDisk
from offhost.snapshot.refusals import unreadable
from offhost.transport.contract import described, first_willing
from offhost.vsphere.configuration import configuration
from offhost.vsphere.snapshots import current_lineage, snapshots
from offhost.vsphere.values import Disk, Vm


async def plan(backup: VmBackup, vm: Vm) -> VmPlan:
    """A failure to find out is in the plan."""
    try:
        present = await configuration(backup.vsphere, vm)
        lineage = current_lineage(await snapshots(backup.vsphere, vm))
        points = await in_thread(backup.destination.repository.points.of, vm.id)
    except OffhostError as error:
        return VmPlan(vm.name, vm.id, (), Problem(error.code, str(error), error.hint))
    latest = max(points, key=lambda point: point.order, default=None)
    refused = unreadable(present)
    disks = []
    for disk in present.disks:
        base = base_disk(latest.disks, disk.key) if latest else None
        frozen = replace(disk, change_id="as of the snapshot") if vm.change_tracking else disk
        reason = refused.get(disk.key) or _full_reason(backup, frozen, base, lineage, template=vm.template)
        transport, refusals = await in_thread(first_willing, backup.settings.transports, vm, disk)
        disks.append(
            DiskPlan(
                key=disk.key,
                label=disk.label,
                capacity_bytes=disk.capacity_bytes,
                mode="refused" if disk.key in refused or not transport else "full" if reason else "incremental",
                reason=reason,
                transport=transport,
                refused=described(refusals),
            )
        )
    return VmPlan(vm.name, vm.id, tuple(disks), None)


def _full_reason(
    backup: VmBackup, disk: Disk, base: PointDisk | None, lineage: tuple[str, ...], *, template: bool
) -> str | None:
    cutter = backup.destination.chunking.cutter.identity
    return backup.settings.reads.full_reason or full_read_reason(
        disk, base, lineage=lineage, cutter=cutter, reverted=False, template=template
    )
