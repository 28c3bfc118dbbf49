"""What a backup of VMs would do, disk by disk, and why: asked of vSphere and the repository, touching nothing.

What only the snapshot would show (its chain, its change ids) is told as the VM is now, and a revert that left the VM's
snapshots as they were is not looked for: it takes a call for each VM.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Literal

from offhost.aio import in_thread
from offhost.backup.base import ReadMode, base_disk, due, full_due_reason, full_read_reason, last_full
from offhost.backup.destination import Destination
from offhost.backup.report import DiskPlan, Problem, VmPlan
from offhost.backup.vm import VmSettings, last_growth
from offhost.errors import OffhostError, UnreadableDisks, VmGone
from offhost.repository.points.manifest import Manifest, PointDisk
from offhost.snapshot.refusals import unreadable
from offhost.snapshot.space import low_space
from offhost.transport.contract import NONE_CAN_HINT, Refusal, described, first_willing
from offhost.vsphere.inventory import datastores, refuse_twins, refuse_unreachable
from offhost.vsphere.session import VSphere
from offhost.vsphere.survey import Surveyed, survey
from offhost.vsphere.values import Datastore, Disk, Vm


@dataclass(frozen=True, slots=True)
class Planner:
    """Plans for many VMs at once, with calls by the batch, so that a vCenter that is slow to answer is asked seldom."""

    vsphere: VSphere
    destination: Destination
    settings: VmSettings
    now: datetime

    async def plans(self, vms: Sequence[Vm]) -> list[VmPlan]:
        """One for each VM, in their order; a failure to find out about one is in its plan.

        Raises: OffhostError when neither vSphere nor the repository can be asked.
        """
        surveyed = await survey(self.vsphere, vms)
        spaces = {store.moref: store for store in await datastores(self.vsphere)}
        gone = await in_thread(partial(self.destination.repository.points.gone, strict=True))
        return [await in_thread(self._plan, vm, surveyed.get(vm.moref), spaces, gone) for vm in vms]

    def _plan(
        self, vm: Vm, surveyed: Surveyed | None, spaces: Mapping[str, Datastore], gone: Collection[str]
    ) -> VmPlan:
        try:
            refuse_unreachable(vm)
            refuse_twins(vm)
            if surveyed is None:
                raise VmGone(f"{vm.name}: it is gone, or vSphere has no configuration of it any more")
            if not surveyed.disks:
                raise UnreadableDisks(f"{vm.name}: it has no disk")
            stores = [spaces[ref] for ref in surveyed.datastores if ref in spaces]
            latest = next(self.destination.repository.points.newest_first(vm.id, gone), None)
            growth = last_growth(latest, self.now) if latest else 0
            limits = self.settings.snapshot
            shortage = low_space(vm, stores, min_free=limits.min_free, last_growth_bytes=growth)
            disks = _Disks(self, vm, surveyed, latest, gone).plans()
        except OffhostError as error:
            return VmPlan(vm.name, vm.id, (), _problem(error))
        trouble = _refused(vm, disks) or shortage
        return VmPlan(vm.name, vm.id, disks, _problem(trouble) if trouble else None)


@dataclass(frozen=True, slots=True)
class _Disks:
    """The disks of one VM. `latest` is its last point; of it, `gone` do not count. Blocking."""

    planner: Planner
    vm: Vm
    surveyed: Surveyed
    latest: Manifest | None
    gone: Collection[str]

    def plans(self) -> tuple[DiskPlan, ...]:
        refused = unreadable(self.surveyed.disks)
        return tuple(self._disk(disk, refused.get(disk.key)) for disk in self.surveyed.disks)

    def _disk(self, disk: Disk, refused: str | None) -> DiskPlan:
        if refused:
            return self._planned(disk, "refused", refused)
        transport, refusals = first_willing(self.planner.settings.transports, self.vm, disk)
        if not transport:
            return self._planned(disk, "refused", f"no transport can read it: {NONE_CAN_HINT}", refusals=refusals)
        reason = self._full_reason(disk)
        mode = "full" if reason else self.planner.settings.reads.mode
        return self._planned(disk, mode, reason, transport=transport, refusals=refusals)

    def _planned(
        self,
        disk: Disk,
        mode: ReadMode | Literal["refused"],
        reason: str | None,
        *,
        transport: str | None = None,
        refusals: Sequence[Refusal] = (),
    ) -> DiskPlan:
        return DiskPlan(
            key=disk.key,
            label=disk.label,
            capacity_bytes=disk.capacity_bytes,
            mode=mode,
            reason=reason,
            transport=transport,
            refused=described(refusals),
            about_bytes=disk.capacity_bytes if mode == "full" else None,
        )

    def _full_reason(self, disk: Disk) -> str | None:
        """Why all of it would be read."""
        reads, known = self.planner.settings.reads, self._of(self.latest, disk)
        if reason := reads.full_reason or full_due_reason(known, reads.full_every, self.planner.now):
            return reason
        base = known
        if reads.mode == "differential" and known is not None:
            points = self.planner.destination.repository.points.newest_first(self.vm.id, self.gone)
            full, lost = last_full(points, known)
            if lost:
                return lost
            base = self._of(full, disk)
        return self._doubt(disk, base) or self._audit_of_all(known)

    def _doubt(self, disk: Disk, base: PointDisk | None) -> str | None:
        frozen = replace(disk, change_id="as of the snapshot") if self.vm.change_tracking else disk
        cutter = self.planner.destination.chunking.cutter.identity
        lineage, template = self.surveyed.lineage, self.vm.template
        return full_read_reason(frozen, base, lineage=lineage, cutter=cutter, reverted=False, template=template)

    def _audit_of_all(self, known: PointDisk | None) -> str | None:
        audit = self.planner.settings.reads.audit
        if (
            known is None
            or audit.read != "all"
            or not due(known.source.get("audited_at"), audit.every, self.planner.now)
        ):
            return None
        return "an audit of change tracking reads all of it"

    def _of(self, point: Manifest | None, disk: Disk) -> PointDisk | None:
        return base_disk(point.disks, disk.key) if point else None


def _refused(vm: Vm, disks: Sequence[DiskPlan]) -> UnreadableDisks | None:
    """A VM is never backed up without a disk."""
    labels = [disk.label for disk in disks if disk.mode == "refused"]
    return (
        UnreadableDisks(f"{vm.name}: {', '.join(labels)} cannot be read, and no VM is backed up in part")
        if labels
        else None
    )


def _problem(error: OffhostError) -> Problem:
    return Problem(error.code, str(error), error.hint)
