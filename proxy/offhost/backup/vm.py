"""The backup of one VM: hold a snapshot, copy every disk, pass the gate, commit; the snapshot goes whatever happens.

Owns: the order of one VM's run and its report. Does not own: the snapshot's life (snapshot), the copy (copy), how a
disk is read (reading).
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any

from offhost.aio import guarded, in_thread, shielded, threaded
from offhost.backup.audit import Audited, sample
from offhost.backup.copied import CopiedDisk
from offhost.backup.copy import DiskCopy, healed, settle
from offhost.backup.destination import Destination
from offhost.backup.latency import LatencyGuard, LatencyLimit
from offhost.backup.reading import Reading, Readings, ReadPolicy
from offhost.backup.report import Problem, VmReport
from offhost.clock import Clock
from offhost.errors import (
    OffhostError,
    ReadFailed,
    UnreadableDisks,
)
from offhost.ids import RunId
from offhost.pacing import UNBOUND, Paces
from offhost.repository.points.manifest import Manifest
from offhost.repository.points.restorepoint import RestorePoint
from offhost.repository.session import WriteSession
from offhost.snapshot.growth import SnapshotLimits, SnapshotWatch
from offhost.snapshot.held import HUNG_AFTER_S, HeldSnapshot, held
from offhost.snapshot.leftovers import others_left, remove_leftovers_of
from offhost.snapshot.refusals import unreadable
from offhost.snapshot.removal import RemovalTurns
from offhost.snapshot.space import check_free_space
from offhost.snapshot.taking import Consistency
from offhost.transport.contract import OpenDisk, Transport, first_willing, none_can
from offhost.vsphere.configuration import configuration
from offhost.vsphere.inventory import as_it_is_now, refuse_twins
from offhost.vsphere.session import VSphere
from offhost.vsphere.snapshots import Owner, snapshots
from offhost.vsphere.values import Disk, QuiescePolicy, Vm, VmConfiguration

_log = logging.getLogger(__name__)

DiskProgress = Callable[[str, int, int], None]
"""Told a disk's label, bytes done and bytes in all; on the event loop's thread."""


@dataclass(frozen=True, slots=True)
class VmSettings:
    """How the job wants VMs backed up.

    `stalled_after_s`: how long a disk may be read without a span being done, before its backup fails; `hung_after_s`:
    how long after a cancellation a read that does not come back is waited for.
    """

    transports: Sequence[Transport]
    quiesce: QuiescePolicy
    reads: ReadPolicy
    snapshot: SnapshotLimits
    consolidate: bool = False
    """Whether disks that need consolidation get it; else that is left to the VM's administrators."""
    stalled_after_s: float = 900.0
    hung_after_s: float = HUNG_AFTER_S
    paces: Paces = UNBOUND
    """How fast disks are read."""
    latency: LatencyLimit | None = None
    """Reading slows down over it."""


@dataclass(frozen=True, slots=True)
class VmBackup:
    """One run's way of backing VMs up; `run` may be under way for several VMs at once."""

    vsphere: VSphere
    destination: Destination
    owner: Owner
    settings: VmSettings
    clock: Clock
    progress: DiskProgress
    is_dead: Callable[[RunId], bool]
    """Whether a run of this installation is provably over, so that what it left may be removed."""
    on_cancelled: Callable[[VmReport], None] | None = None
    removals: RemovalTurns | None = None
    """Shared by all backups of an endpoint's VMs."""
    on_lie: Callable[[str, int], None] | None = None
    """Told a disk's label and how much of it had changed without change tracking saying so."""
    job: str | None = None
    """The job's name, which its points' retention goes by."""
    tags: tuple[str, ...] = ()
    """What retention may keep points by, too."""

    async def run(self, vm: Vm) -> VmReport:
        """Back up a VM, which the caller has claimed.

        Its failure is in the report; a cancellation is raised when everything is cleaned up, and `on_cancelled` is told
        the report before.
        """
        work = _Run(self, vm, self.clock.now())
        problem = None
        try:
            await work.execute()
        except asyncio.CancelledError:
            if self.on_cancelled is not None:
                self.on_cancelled(work.report(None))
            raise
        except OffhostError as error:
            problem = Problem(error.code, str(error), error.hint)
        except Exception as error:  # noqa: BLE001 - one VM's failure, whatever it is, must not end the others' backups
            _log.exception("the backup of %s failed unexpectedly", vm.name)
            problem = Problem("internal", f"{vm.name}: {type(error).__name__}: {error}", "see the log")
        return work.report(problem)


class _Run:
    """The backup of one VM, once. `_point` is set exactly when one was committed."""

    def __init__(self, backup: VmBackup, vm: Vm, started: datetime) -> None:
        self._backup, self._vm, self._started = backup, vm, started
        self._repository = backup.destination.repository
        self._stop = threading.Event()
        self._warnings: list[str] = []
        self._copied: list[CopiedDisk] = []
        self._point: Manifest | None = None
        self._consistency: Consistency | None = None
        latency = backup.settings.latency
        self._latency = LatencyGuard(latency, vm, backup.clock) if latency else None

    async def execute(self) -> None:
        """Everything that can be known to fail is tried before the snapshot is taken."""
        await self._prepare()
        opening = self._repository.session(self._vm.id, self._backup.destination.write_check)
        async with threaded(opening) as (session, base):
            await self._copy(session, base)

    async def _copy(self, session: WriteSession, base: RestorePoint | None) -> None:
        backup, settings = self._backup, self._backup.settings
        growth = last_growth(base.manifest, backup.clock.now()) if base else 0
        await check_free_space(backup.vsphere, self._vm, min_free=settings.snapshot.min_free, last_growth_bytes=growth)
        async with held(
            backup.vsphere,
            self._vm,
            owner=backup.owner,
            quiesce=settings.quiesce,
            transports=settings.transports,
            clock=backup.clock,
            warnings=self._warnings,
            track_changes=settings.reads.mode != "full",
            consolidate=settings.consolidate,
            removals=backup.removals,
            hung_after_s=settings.hung_after_s,
        ) as snap:
            _refuse(self._vm, snap.configuration)
            watch = SnapshotWatch(backup.vsphere, snap, settings.snapshot, backup.clock)
            await guarded(self._copy_disks(session, base, snap), watch.watch())
            await self._commit(session, base, snap, await watch.bytes())

    async def _prepare(self) -> None:
        """The VM as it is now, not as it was when the job chose it; free of what dead runs left on it."""
        backup = self._backup
        refuse_twins(self._vm)
        vm = self._vm = await as_it_is_now(backup.vsphere, self._vm)
        if not vm.template:
            tree = await snapshots(backup.vsphere, vm)
            self._warnings += others_left(vm, tree, backup.owner.installation, backup.clock.now())
            left = await remove_leftovers_of(
                backup.vsphere, vm, tree, backup.owner.installation, is_dead=backup.is_dead
            )
            self._warnings += [
                f"{vm.name}: the snapshot of the dead run {one.run} could not be removed: {one.problem}"
                for one in left
                if one.problem
            ]
        present = await configuration(backup.vsphere, vm)
        _refuse(vm, present)
        await in_thread(_refuse_unserved, backup.settings.transports, vm, present)

    def report(self, problem: Problem | None) -> VmReport:
        """What became of it."""
        return VmReport(
            vm=self._vm.name,
            vm_id=self._vm.id,
            point=self._point.id if self._point else None,
            consistency=self._consistency,
            disks=tuple(copied.report() for copied in self._copied),
            warnings=tuple(self._warnings),
            problem=problem,
            started=self._started.isoformat(),
            ended=self._backup.clock.now().isoformat(),
        )

    async def _copy_disks(self, session: WriteSession, base: RestorePoint | None, snap: HeldSnapshot) -> None:
        for disk in snap.configuration.disks:
            copying = self._copy_disk(session, base, snap, disk)
            if self._latency:
                copying = guarded(copying, self._latency.watch())
            await copying
        if self._latency and self._latency.slowed:
            self._warnings.append(self._latency.slowed)

    async def _copy_disk(
        self, session: WriteSession, base: RestorePoint | None, snap: HeldSnapshot, disk: Disk
    ) -> None:
        opened = await snap.open(disk)
        destination = self._backup.destination
        reading = await Readings(self._backup.settings.reads, destination, snap, base).of(disk)
        audited = await self._sampled(snap, opened, reading)
        if audited is not None and audited.unreported:
            reading = reading.disbelieved()
        loop = asyncio.get_running_loop()
        copy = await in_thread(
            lambda: DiskCopy(
                opened.source,
                session,
                destination.chunking,
                destination.workers,
                base=reading.base,
                areas=reading.areas,
                audit=reading.compared(destination) if reading.areas is None else None,
                progress=lambda *done: loop.call_soon_threadsafe(self._backup.progress, disk.label, *done),
                paces=self._paces(),
            )
        )
        copied = CopiedDisk(disk, opened, copy, reading, audited)
        before = session.stored_bytes
        try:
            reading_all = snap.reading(copy.run, self._stop, interrupt=self._stop.set)
            await guarded(reading_all, self._stalling(copy, disk))
        finally:
            if snap.abandoned:
                destination.workers.give_up_hung()
        copied.stored_bytes = session.stored_bytes - before
        self._copied.append(copied)
        if copied.unreported:
            self._lied(snap, copied)

    async def _stalling(self, copy: DiskCopy, disk: Disk) -> None:
        """Raise ReadFailed when the copy does not move: a read that hangs must not hold its snapshot for ever."""
        clock, limit_s = self._backup.clock, self._backup.settings.stalled_after_s
        pulse, since = copy.pulse, clock.monotonic()
        while True:
            await asyncio.sleep(limit_s / 20)
            if copy.pausing or copy.pulse != pulse:
                pulse, since = copy.pulse, clock.monotonic()
            elif clock.monotonic() - since > limit_s:
                raise ReadFailed(
                    f"{self._vm.name}: {disk.label}: nothing of it could be read for {limit_s / 60:.0f} minutes",
                    hint="does the storage answer? look at the mount of its datastore on the proxy",
                )

    def _paces(self) -> Paces:
        paces = self._backup.settings.paces
        return replace(paces, bounds=(*paces.bounds, self._latency.pace)) if self._latency else paces

    async def _sampled(self, snap: HeldSnapshot, opened: OpenDisk, reading: Reading) -> Audited | None:
        """What a sample of the unchanged areas shows, when one is due."""
        compared = reading.compared(self._backup.destination) if reading.audit == "sample" else None
        if compared is None:
            return None
        work = partial(sample, paces=self._paces())
        return await snap.reading(work, opened.source, compared, self._stop, interrupt=self._stop.set)

    def _lied(self, snap: HeldSnapshot, copied: CopiedDisk) -> None:
        """Change tracking did not report what had changed: say so everywhere, and have it begun anew."""
        snap.tracking_broken = True
        lie = copied.lie(self._vm.name)
        _log.error("%s", lie)
        self._warnings.append(lie)
        if self._backup.on_lie is not None:
            self._backup.on_lie(copied.disk.label, copied.unreported.total_bytes)

    async def _commit(
        self, session: WriteSession, base: RestorePoint | None, snap: HeldSnapshot, snapshot_bytes: int
    ) -> None:
        files = await snap.files()
        point = await in_thread(self._manifest, session, base, snap, files)
        point = replace(point, origin={**point.origin, "snapshot_bytes": snapshot_bytes})
        again: list[Callable[[], object]] = [partial(copied.copy.run, self._stop) for copied in self._copied]
        again.append(lambda: self._backup.destination.store_files(session, files))
        await snap.reading(settle, session, again, self._stop, interrupt=self._stop.set)
        self._warnings += healed(session, [copied.copy for copied in self._copied])
        await snap.gate()
        await shielded(in_thread(self._put, session, point, snap.consistency))

    def _put(self, session: WriteSession, point: Manifest, consistency: Consistency) -> None:
        """In the thread up to the last step: a cancellation that comes meanwhile still finds the point told."""
        self._point, self._consistency = session.commit(point), consistency

    def _manifest(
        self, session: WriteSession, base: RestorePoint | None, snap: HeldSnapshot, files: dict[str, bytes]
    ) -> Manifest:
        modes = {copied.reading.mode for copied in self._copied}
        return Manifest(
            id=session.id,
            vm_id=self._vm.id,
            vm_name=self._vm.name,
            sequence=base.manifest.sequence + 1 if base else 1,
            predecessor=self._repository.points.predecessor(base.manifest) if base else None,
            time=snap.taken_at,
            kind=next(iter(modes - {"full"}), "full"),
            consistency=snap.consistency,
            disks=tuple(copied.of_point(snap) for copied in self._copied),
            files=self._backup.destination.store_files(session, files),
            vm_config=snap.configuration.saved,
            origin=self._origin(),
        )

    def _origin(self) -> dict[str, Any]:
        """Who made the point: retention goes by the job, and by whose job it is."""
        owner = self._backup.owner
        made_by = {"job": self._backup.job, "installation": owner.installation, "run": owner.run}
        tags = {"tags": list(self._backup.tags)} if self._backup.tags else {}
        return {"kind": "vm", **made_by, "started": self._started.isoformat(), **tags}


def last_growth(point: Manifest, now: datetime) -> int:
    """How many bytes the snapshot of a point grew to, half as many for each day since; 0 where that is not told.

    One busy night must not refuse all later ones.
    """
    told = point.origin.get("snapshot_bytes")
    if not isinstance(told, int) or not 0 <= told < 1 << 62:
        return 0
    return told >> max((now - point.time).days, 0)


def _refuse(vm: Vm, present: VmConfiguration) -> None:
    """Raise UnreadableDisks, naming each: a VM is never backed up silently without a disk."""
    refused = unreadable(present.disks)
    if refused:
        raise UnreadableDisks(f"{vm.name}: {'; '.join(refused.values())}")
    if not present.disks:
        raise UnreadableDisks(f"{vm.name}: it has no disk")


def _refuse_unserved(transports: Sequence[Transport], vm: Vm, present: VmConfiguration) -> None:
    """Raise TransportUnavailable for a disk that none would read: such a VM gets no snapshot."""
    for disk in present.disks:
        transport, refused = first_willing(transports, vm, disk)
        if transport is None:
            raise none_can(vm, disk, refused)
