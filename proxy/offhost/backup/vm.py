"""The backup of one VM: hold a snapshot, copy every disk, pass the gate, commit; the snapshot goes whatever happens.

Owns: the order of one VM's run and its report. Does not own: the snapshot's life (snapshot), the copy (copy), what a
full read is for (base).
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Literal

from offhost.aio import guarded, in_thread, shielded, threaded
from offhost.backup.base import base_disk, full_read_reason, source_of
from offhost.backup.copy import DiskCopy, map_of, settle
from offhost.backup.destination import Destination
from offhost.backup.report import DiskReport, Problem, VmReport
from offhost.clock import Clock
from offhost.errors import ChangeTrackingInvalid, OffhostError, UnreadableDisks
from offhost.extents import ExtentMap
from offhost.repository.manifest import Manifest, PointDisk
from offhost.repository.restorepoint import RestorePoint
from offhost.repository.session import WriteSession
from offhost.snapshot.held import HeldSnapshot, held
from offhost.snapshot.refusals import unreadable
from offhost.snapshot.space import check_free_space
from offhost.transport.contract import OpenDisk, Refusal, Transport
from offhost.vsphere.configuration import configuration
from offhost.vsphere.session import VSphere
from offhost.vsphere.snapshots import Owner
from offhost.vsphere.values import Disk, QuiescePolicy, Vm, VmConfiguration

_log = logging.getLogger(__name__)

_SPACE_CHECK_EVERY_S = 30.0

DiskProgress = Callable[[str, int, int], None]
"""Told a disk's label, bytes done and bytes in all; on the event loop's thread."""


@dataclass(frozen=True, slots=True)
class VmSettings:
    """How the job wants VMs backed up. `min_free` is the share of a datastore that must stay free."""

    transports: Sequence[Transport]
    quiesce: QuiescePolicy
    mode: Literal["full", "incremental"]
    min_free: float

    @property
    def full_reason(self) -> str | None:
        """Why every disk is read in full; None when each decides for itself."""
        return "the job reads in full" if self.mode == "full" else None


@dataclass(slots=True)
class _Copied:
    """A disk that is on its way into the repository."""

    disk: Disk
    opened: OpenDisk
    copy: DiskCopy
    reason: str | None
    changed_bytes: int | None
    stored_bytes: int = 0

    def report(self) -> DiskReport:
        return DiskReport(
            key=self.disk.key,
            label=self.disk.label,
            capacity_bytes=self.disk.capacity_bytes,
            mode="full" if self.copy.areas is None else "incremental",
            reason=self.reason,
            transport=self.opened.transport,
            refused=described(self.opened.refused),
            changed_bytes=self.changed_bytes,
            read_bytes=self.copy.totals.read_bytes,
            new_bytes=self.copy.totals.new_bytes,
            stored_bytes=self.stored_bytes,
            host_bytes=self.opened.host_bytes(),
        )


@dataclass(frozen=True, slots=True)
class VmBackup:
    """One run's way of backing VMs up; `run` may be under way for several VMs at once."""

    vsphere: VSphere
    destination: Destination
    owner: Owner
    settings: VmSettings
    clock: Clock
    progress: DiskProgress

    async def run(self, vm: Vm) -> VmReport:
        """Back up a VM. Its failure is in the report; a cancellation is raised when everything is cleaned up."""
        started = self.clock.now()
        work = _Run(self, vm, started)
        problem = None
        try:
            await work.execute()
        except OffhostError as error:
            problem = Problem(error.code, str(error), error.hint)
        except Exception as error:  # noqa: BLE001 - one VM's failure, whatever it is, must not end the others' backups
            _log.exception("the backup of %s failed unexpectedly", vm.name)
            problem = Problem("internal", f"{vm.name}: {type(error).__name__}: {error}", "see the log")
        return VmReport(
            vm=vm.name,
            vm_id=vm.id,
            point=work.point.id if work.point else None,
            consistency=work.snap.consistency if work.snap and work.point else None,
            disks=tuple(copied.report() for copied in work.copied),
            warnings=tuple(work.snap.warnings if work.snap else ()),
            problem=problem,
            started=started.isoformat(),
            ended=self.clock.now().isoformat(),
        )


class _Run:
    """The backup of one VM, once. `point` is set exactly when one was committed."""

    def __init__(self, backup: VmBackup, vm: Vm, started: datetime) -> None:
        self._backup, self._vm, self._started = backup, vm, started
        self._repository = backup.destination.repository
        self._stop = threading.Event()
        self.snap: HeldSnapshot | None = None
        self.copied: list[_Copied] = []
        self.point: Manifest | None = None

    async def execute(self) -> None:
        backup, vm = self._backup, self._vm
        _refuse(vm, await configuration(backup.vsphere, vm))
        await check_free_space(backup.vsphere, vm, min_free=backup.settings.min_free)
        async with held(
            backup.vsphere,
            vm,
            owner=backup.owner,
            quiesce=backup.settings.quiesce,
            transports=backup.settings.transports,
            clock=backup.clock,
            track_changes=backup.settings.mode == "incremental",
        ) as snap:
            self.snap = snap
            _refuse(vm, snap.configuration)
            async with threaded(self._repository.session(vm.id, backup.destination.write_check)) as (session, base):
                await self._copy_disks(session, base, snap)
                await self._commit(session, base, snap)

    async def _copy_disks(self, session: WriteSession, base: RestorePoint | None, snap: HeldSnapshot) -> None:
        for disk in snap.configuration.disks:
            await guarded(self._copy_disk(session, base, snap, disk), self._watch_space())

    async def _watch_space(self) -> None:
        """While disks are read the snapshot grows: a datastore that fills up ends the run."""
        while True:
            await asyncio.sleep(_SPACE_CHECK_EVERY_S)
            await check_free_space(self._backup.vsphere, self._vm, min_free=self._backup.settings.min_free)

    async def _copy_disk(
        self, session: WriteSession, base: RestorePoint | None, snap: HeldSnapshot, disk: Disk
    ) -> None:
        opened = await snap.open(disk)
        known = base_disk(base.manifest.disks, disk.key) if base else None
        map_before = await in_thread(map_of, base, disk.key)
        areas, reason = await self._areas(snap, disk, known, readable=map_before is not None)
        loop = asyncio.get_running_loop()
        copy = await in_thread(
            lambda: DiskCopy(
                opened.source,
                session,
                self._backup.destination.chunking,
                self._backup.destination.workers,
                base=map_before,
                areas=areas,
                progress=lambda *done: loop.call_soon_threadsafe(self._backup.progress, disk.label, *done),
            )
        )
        copied = _Copied(disk, opened, copy, reason, areas.total_bytes if areas is not None else None)
        before = session.stored_bytes
        await in_thread(copy.run, self._stop, interrupt=self._stop.set)
        copied.stored_bytes = session.stored_bytes - before
        self.copied.append(copied)

    async def _areas(
        self, snap: HeldSnapshot, disk: Disk, base: PointDisk | None, *, readable: bool
    ) -> tuple[ExtentMap | None, str | None]:
        """What must be read: the areas that changed, or None for all of it and the reason."""
        reason = self._backup.settings.full_reason
        if not reason:
            reverted = base is not None and await snap.reverted_since(str(base.source.get("taken_at", "")))
            cutter = self._backup.destination.chunking.cutter.identity
            reason = full_read_reason(
                disk, base, lineage=snap.lineage, cutter=cutter, reverted=reverted, readable=readable
            )
        if reason or base is None:
            return None, reason
        try:
            return (await snap.changed(disk, str(base.source["change_id"]))).areas, None
        except ChangeTrackingInvalid as error:
            return None, error.message

    async def _commit(self, session: WriteSession, base: RestorePoint | None, snap: HeldSnapshot) -> None:
        files = await snap.files()
        point = await in_thread(self._manifest, session, base, snap, files)
        again: list[Callable[[], object]] = [partial(copied.copy.run, self._stop) for copied in self.copied]
        again.append(lambda: self._backup.destination.store_files(session, files))
        await in_thread(settle, session, again, self._stop, interrupt=self._stop.set)
        await snap.gate()
        await shielded(in_thread(self._put, session, point))

    def _put(self, session: WriteSession, point: Manifest) -> None:
        """In the thread up to the last step: a cancellation that comes meanwhile still finds the point told."""
        self.point = session.commit(point)

    def _manifest(
        self, session: WriteSession, base: RestorePoint | None, snap: HeldSnapshot, files: dict[str, bytes]
    ) -> Manifest:
        disks = []
        for copied in self.copied:
            source = source_of(copied.disk, snap.lineage, snap.taken_at.isoformat())
            disks.append(PointDisk(copied.disk.key, copied.disk.label, copied.copy.finish(), source.to_json()))
        incremental = any(copied.copy.areas is not None for copied in self.copied)
        return Manifest(
            id=session.id,
            vm_id=self._vm.id,
            vm_name=self._vm.name,
            sequence=base.manifest.sequence + 1 if base else 1,
            predecessor=self._repository.points.predecessor(base.manifest) if base else None,
            time=snap.taken_at,
            kind="incremental" if incremental else "full",
            consistency=snap.consistency,
            disks=tuple(disks),
            files=self._backup.destination.store_files(session, files),
            vm_config=snap.configuration.saved,
            origin={"kind": "vm", "run": self._backup.owner.run, "started": self._started.isoformat()},
        )


def _refuse(vm: Vm, present: VmConfiguration) -> None:
    """Raise UnreadableDisks, naming each: a VM is never backed up silently without a disk."""
    refused = unreadable(present)
    if refused:
        raise UnreadableDisks(f"{vm.name}: {'; '.join(refused.values())}")
    if not present.disks:
        raise UnreadableDisks(f"{vm.name}: it has no disk")


def described(refused: Sequence[Refusal]) -> tuple[str, ...]:
    """Refusals as reports tell them."""
    return tuple(f"{refusal.transport}: {refusal.reason}" for refusal in refused)
