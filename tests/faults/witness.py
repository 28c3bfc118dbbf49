"""A VM of a simulated vCenter under trial: what is done to it, its backups, and what must hold of them.

Owns: what happened at the VM, with what its snapshots froze, and the invariants of its backups. Does not own: the order
in which things happen (truth).
"""

import asyncio
import hashlib
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from pathlib import Path

from offhost.backup.audit import AuditPolicy
from offhost.backup.base import ReadMode
from offhost.backup.destination import Destination
from offhost.backup.report import VmReport
from offhost.backup.vm import VmBackup
from offhost.blockio import ReadAt, read_bytes
from offhost.chunking.workers import SpanWorkers
from offhost.errors import ReadFailed
from offhost.extents import ExtentMap
from offhost.repository.points.manifest import Manifest
from offhost.transport.contract import OpenDisk, Transport
from offhost.vsphere.values import Disk, Vm
from support import repositories
from support.backed_up_vms import BackedUpVm
from support.held_vms import mounted
from support.repositories import noise
from support.sessions import connected, found
from support.vcenter import Rule, SimulatedDisk, SimulatedSnapshot, SimulatedVCenter

GRAIN = 64 << 10
OURS = "offhost backup: "
DATASTORES = {"DS1": "VMFS", "DS2": "VMFS"}
MOMENTS = ("chosen", "opened", "read", "read last")
"""Before the snapshot; after it, before it is asked what changed; after that; and when only the last disk is left."""
_DISKS_LIMIT = 4
_SNAPSHOTS_LIMIT = 4
_DISK_LIMIT_BYTES = 3 << 20

Grains = tuple[str, ...]


class Untrue(AssertionError):
    """A promise of the backup of VMs was broken."""


@dataclass(slots=True)
class Attempt:
    """One run: what is to happen while it goes on, and what its snapshot froze."""

    trial: "Trial"
    during: Mapping[str, Callable[[], None]]
    owner: str = ""
    frozen: dict[str, Grains] = field(default_factory=dict)
    happened: set[str] = field(default_factory=set)
    disks_opened: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def reached(self, moment: str) -> None:
        """In whatever thread gets there first."""
        with self._lock:
            if moment in self.happened:
                return
            self.happened.add(moment)
            if moment == "opened":
                self.frozen = self.trial.frozen_by(self.owner)
            if moment in self.during:
                self.during[moment]()


@dataclass(frozen=True, slots=True)
class Watched:
    """The transport of an attempt, which tells how far it has come."""

    inner: Transport
    attempt: Attempt

    @property
    def name(self) -> str:
        return self.inner.name

    def refusal(self, vm: Vm, disk: Disk) -> str | None:
        self.attempt.reached("chosen")
        return self.inner.refusal(vm, disk)

    def open(self, vm: Vm, disk: Disk) -> OpenDisk:
        opened = self.inner.open(vm, disk)
        self.attempt.reached("opened")
        self.attempt.disks_opened += 1
        return replace(opened, source=_WatchedSource(opened.source, self.attempt))

    def fetch(self, path: str, limit_bytes: int) -> bytes:
        return self.inner.fetch(path, limit_bytes)


@dataclass(frozen=True, slots=True)
class _WatchedSource:
    inner: ReadAt
    attempt: Attempt

    @property
    def size_bytes(self) -> int:
        return self.inner.size_bytes

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self.attempt.reached("read")
        if self.attempt.disks_opened == len(self.attempt.frozen):
            self.attempt.reached("read last")
        self.inner.read_into(offset, buffer)

    def allocated(self) -> ExtentMap:
        return self.inner.allocated()

    def close(self) -> None:
        self.inner.close()


class Trial:
    """One VM, from its first backup on. Every method is one step; `counts` tells which were taken."""

    def __init__(self, vcenter: SimulatedVCenter, web: BackedUpVm, loop: asyncio.AbstractEventLoop, root: Path) -> None:
        self.vcenter, self.web, self.loop, self.root = vcenter, web, loop, root
        self.moref = web.moref
        self.counts: Counter[str] = Counter()
        self.foreign: set[str] = set()
        self.expected: dict[str, dict[str, Grains]] = {}
        self.forgotten: set[str] = set()
        self.lying = False
        self._seed = 0
        self._run: asyncio.Task[VmReport] | None = None
        self._steps: dict[str, Callable[[int, int], bool]] = {
            "the guest writes": self._write,
            "the guest writes here and there": self._scatter,
            "somebody takes a snapshot": self._take,
            "somebody removes a snapshot": self._remove,
            "somebody reverts": self._revert,
            "our snapshot is removed": self._remove_ours,
            "a disk is added": self._add,
            "a disk grows": self._grow,
            "a disk is detached": self._detach,
            "a disk is attached elsewhere": self._move,
            "change tracking is switched": self._switch,
            "change tracking is begun anew": self._begin_anew,
            "change tracking lies": self._lie,
            "answers become short": self._shorten,
            "the storage moves": self._migrate,
            "the VM is renamed": self._rename,
            "sessions are dropped": self._drop,
            "the run is cancelled": self._cancel,
            "a read fails": self._fail_read,
        }

    # --- what happens

    @property
    def steps(self) -> tuple[str, ...]:
        """All that can happen to the VM."""
        return tuple(self._steps)

    def happens(self, step: str, which: int, how: int) -> None:
        """Let something happen to the VM, now; nothing where it cannot."""
        if self._steps[step](which, how):
            self.counts[step] += 1

    def _disk(self, which: int) -> SimulatedDisk:
        disks = self.vcenter.disks(self.moref)
        return disks[which % len(disks)]

    def _write(self, which: int, how: int) -> bool:
        disk = self._disk(which)
        length = (512, 4096, GRAIN, 3 * GRAIN + 512)[how % 4]
        offset = how * 7 * 512 % (disk.size_bytes - length)
        self._seed += 1
        data = bytes(length) if how % 5 == 0 else noise(self._seed, length)
        self.vcenter.write(self.moref, disk.key, offset, data)
        return True

    def _scatter(self, which: int, how: int) -> bool:
        """As many places as need several answers of what changed, at the beginning or the end of their grains."""
        disk = self._disk(which)
        self._seed += 1
        for grain in range(how % 3, disk.size_bytes // GRAIN, 3 + how % 4):
            place = grain * GRAIN + (GRAIN - 512) * (how % 2)
            self.vcenter.write(self.moref, disk.key, place, noise(self._seed, 512))
        return True

    def snapshots(self, *, ours: bool) -> list[SimulatedSnapshot]:
        """The VM's snapshots: ours, or everybody else's."""
        return [one for one in self.vcenter.snapshots(self.moref) if one.description.startswith(OURS) == ours]

    def _foreign(self, which: int) -> str | None:
        present = self.snapshots(ours=False)
        return present[which % len(present)].moref if present else None

    def _take(self, which: int, how: int) -> bool:
        if len(self.foreign) >= _SNAPSHOTS_LIMIT:
            return False
        self.foreign.add(self.vcenter.create_foreign_snapshot(self.moref, f"by hand {which}"))
        return True

    def _remove(self, which: int, how: int) -> bool:
        chosen = self._foreign(which)
        if chosen is None:
            return False
        self.vcenter.remove_snapshot(self.moref, chosen, children=how % 4 == 0)
        self.foreign &= {one.moref for one in self.snapshots(ours=False)}
        return True

    def _revert(self, which: int, how: int) -> bool:
        chosen = self._foreign(which)
        if chosen is None:
            return False
        self.vcenter.revert(self.moref, chosen, keep_uuid=how % 3 != 0)
        return True

    def _remove_ours(self, which: int, how: int) -> bool:
        """When the guest has written since it was taken, which then goes into what it froze."""
        ours = self.snapshots(ours=True)
        for disk in range(len(self.vcenter.disks(self.moref)) if ours else 0):
            self._scatter(disk, how)
        for one in ours:
            self.vcenter.remove_snapshot(self.moref, one.moref)
        return bool(ours)

    def _free_unit(self, which: int) -> int:
        taken = {disk.key - 2000 for disk in self.vcenter.disks(self.moref)} | {7}
        free = [unit for unit in range(10) if unit not in taken]
        return free[which % len(free)]

    def _add(self, which: int, how: int) -> bool:
        if len(self.vcenter.disks(self.moref)) >= _DISKS_LIMIT:
            return False
        self.vcenter.add_disk(self.moref, (1 + how % 2) << 20, unit=self._free_unit(which))
        return True

    def _freed(self) -> bool:
        """Whether the VM has no snapshot, once others' are removed as vSphere demands before it changes a disk."""
        for one in self.snapshots(ours=False):
            self.vcenter.remove_snapshot(self.moref, one.moref)
        self.foreign.clear()
        return not self.vcenter.snapshots(self.moref)

    def _grow(self, which: int, how: int) -> bool:
        disk = self._disk(which)
        if disk.size_bytes >= _DISK_LIMIT_BYTES or not self._freed():
            return False
        self.vcenter.grow_disk(self.moref, disk.key, disk.size_bytes + (1 + how % 8) * GRAIN)
        return True

    def _detach(self, which: int, how: int) -> bool:
        if len(self.vcenter.disks(self.moref)) == 1:
            return False
        self.vcenter.detach_disk(self.moref, self._disk(which).key)
        return True

    def _move(self, which: int, how: int) -> bool:
        if not self._freed():
            return False
        self.vcenter.move_disk(self.moref, self._disk(which).key, unit=self._free_unit(how))
        return True

    def _switch(self, which: int, how: int) -> bool:
        self.vcenter.set_change_tracking(self.moref, on=how % 4 != 0)
        return True

    def _begin_anew(self, which: int, how: int) -> bool:
        """As another product does: off, and on with a stun."""
        if self.vcenter.snapshots(self.moref):
            return False
        self.vcenter.set_change_tracking(self.moref, on=False)
        self._write(which, how)
        self.vcenter.set_change_tracking(self.moref, on=True)
        stun = self.vcenter.create_foreign_snapshot(self.moref, "stun")
        self.vcenter.remove_snapshot(self.moref, stun)
        return True

    def _lie(self, which: int, how: int) -> bool:
        """From now on every backup is audited: that is what finds a lie."""
        disk = self._disk(which)
        self.vcenter.leave_unreported(self.moref, disk.key, how % 8 * GRAIN, 4 * GRAIN)
        self.lying = True
        return True

    def _shorten(self, which: int, how: int) -> bool:
        self.vcenter.set_areas_per_call(1 + how % 3)
        return True

    def _migrate(self, which: int, how: int) -> bool:
        self.vcenter.migrate(self.moref, tuple(DATASTORES)[which % len(DATASTORES)])
        return True

    def _rename(self, which: int, how: int) -> bool:
        self.vcenter.rename(self.moref, f"web {which}-{how}")
        return True

    def _drop(self, which: int, how: int) -> bool:
        self.vcenter.drop_sessions()
        return True

    def _cancel(self, which: int, how: int) -> bool:
        run = self._run
        if run is None:
            return False
        self.loop.call_soon_threadsafe(run.cancel)
        return True

    def _fail_read(self, which: int, how: int) -> bool:
        if self._run is None:
            return False
        self.counts["a read fails"] += 1
        raise ReadFailed("the storage does not answer")

    # --- backups

    def frozen_by(self, owner: str) -> dict[str, Grains]:
        """What the snapshot of a run keeps of each disk."""
        (ours,) = [one.moref for one in self.snapshots(ours=True) if one.description == owner]
        grains = self.vcenter.grains(self.moref, snapshot=ours)
        return {uuid.lower(): tuple(map(sys.intern, digests)) for uuid, digests in grains.items()}

    def back_up(
        self,
        mode: ReadMode = "incremental",
        *,
        during: Mapping[str, tuple[str, int, int]] | None = None,
        faults: Sequence[Rule] = (),
        audit: AuditPolicy | None = None,
        min_free: float = 0.0,
    ) -> VmReport:
        """Back up once, while things happen and calls fail, and hold the outcome to every promise.

        A run that nothing disturbs must commit.
        """
        during = during or {}
        attempt = Attempt(self, {moment: partial(self.happens, *what) for moment, what in during.items()})
        if self.lying and audit is None:
            audit = AuditPolicy(timedelta(0), "sample" if len(self.expected) % 2 else "all")
        transports: list[Transport] = [Watched(one, attempt) for one in mounted(self.vcenter)]
        backup = self.web.backup(transports=transports, mode=mode, audit=audit, min_free=min_free)
        attempt.owner = backup.owner.description()
        vm = self.loop.run_until_complete(found(self.web.vsphere, self.moref))
        self.vcenter.rules(faults)
        try:
            report = self.loop.run_until_complete(self._carry_out(backup, vm))
        finally:
            self.vcenter.rules([])
        self.counts["backups"] += 1
        self.counts["runs with failing calls"] += bool(faults)
        self._judge(report, attempt, undisturbed=not (faults or during or min_free))
        return report

    async def _carry_out(self, backup: VmBackup, vm: Vm) -> VmReport:
        told: list[VmReport] = []
        backup = replace(backup, on_cancelled=told.append)
        self._run = asyncio.create_task(backup.run(vm))
        try:
            return await self._run
        except asyncio.CancelledError:
            (report,) = told
            return report
        finally:
            self._run = None

    def _judge(self, report: VmReport, attempt: Attempt, *, undisturbed: bool) -> None:
        if report.problem is not None:
            self.counts[f"ended by {report.problem.code}"] += 1
            if report.point is not None:
                raise Untrue(f"a run that failed committed: {report}")
            if report.problem.code == "internal" or not report.problem.message:
                raise Untrue(f"a run does not say why it failed: {report.problem}")
            if undisturbed:
                raise Untrue(f"a run that nothing disturbed failed: {report.problem}")
        elif report.point is None:
            self.counts["ended by a cancellation"] += 1
        else:
            for disk in report.disks:
                self.counts[f"disks read: {disk.mode}"] += 1
            self.expected[report.point] = attempt.frozen
            self.compare(report.point)
        self.check()
        self._check_left(report, attempt, undisturbed=undisturbed)

    def _check_left(self, report: VmReport, attempt: Attempt, *, undisturbed: bool) -> None:
        """What of ours remains is told, and goes with the next run that nothing disturbs."""
        left = self.snapshots(ours=True)
        if left and undisturbed:
            raise Untrue(f"snapshots of ours remain: {left}")
        if any(one.description == attempt.owner for one in left):
            self.counts["snapshots left for the next run"] += 1
            if not any("could not be removed" in warning for warning in report.warnings):
                raise Untrue(f"a run left its snapshot and said nothing: {report}")

    def forget(self, which: int) -> None:
        """Take a point out of the lists, as retention does."""
        points = self._visible()
        if len(points) > 1:
            point = points[which % len(points)]
            self.web.destination.repository.marks.forget(point.id, "by hand")
            self.forgotten.add(point.id)
            self.counts["points forgotten"] += 1

    # --- what must hold

    def _visible(self) -> list[Manifest]:
        repository = self.web.destination.repository
        repository.refresh()
        return repository.points.all()

    def check(self) -> None:
        """Of the VM and its points, whatever happened: nobody else's snapshot is gone, no point is missing or more."""
        present = {one.moref for one in self.snapshots(ours=False)}
        if present != self.foreign:
            raise Untrue(f"others' snapshots were {sorted(self.foreign)}, now {sorted(present)}")
        points = {str(point.id) for point in self._visible()}
        if points != set(self.expected) - self.forgotten:
            raise Untrue(f"points committed: {sorted(self.expected)}, present: {sorted(points)}")

    def compare(self, point_id: str) -> None:
        """A point with what its snapshot froze, every byte."""
        repository = self.web.destination.repository
        repository.refresh()
        point = repository.points.find(point_id)
        held = repository.restore_point(point)
        found = {str(disk.key): _grains_of(held.disk(disk.key)) for disk in point.disks}
        self.counts["points compared"] += 1
        if found == self.expected[point_id]:
            return
        wrong = [_difference(key, found.get(key, ()), was) for key, was in self.expected[point_id].items()]
        raise Untrue(f"point {point.sequence}: {'; '.join(filter(None, wrong))}; its disks: {sorted(found)}")

    def compare_all(self) -> None:
        """Every point that was ever committed and is still listed."""
        for point in self._visible():
            self.compare(point.id)

    def finish(self) -> None:
        """One run that nothing disturbs leaves nothing behind, and every point is true."""
        self.back_up()
        self.compare_all()


def _grains_of(disk: ReadAt) -> Grains:
    content = read_bytes(disk, 0, disk.size_bytes)
    return tuple(hashlib.sha256(content[at : at + GRAIN]).hexdigest() for at in range(0, len(content), GRAIN))


def _difference(key: str, found: Grains, was: Grains) -> str:
    differing = [at for at, (one, other) in enumerate(zip(found, was, strict=False)) if one != other]
    return f"disk {key}: {len(found)} grains for {len(was)}, wrong: {differing}" if found != was else ""


@contextmanager
def on_trial(vcenter: SimulatedVCenter, moref: str, workers: SpanWorkers, folder: Path) -> Iterator[Trial]:
    """A VM with a repository of its own in an empty folder, and an event loop for its backups."""
    root = repositories.make(folder / "repository")
    loop = asyncio.new_event_loop()
    session = connected(vcenter)
    try:
        vsphere = loop.run_until_complete(session.__aenter__())
        try:
            with repositories.opened(root) as repository:
                web = BackedUpVm(vcenter, vsphere, Destination(repository, workers), moref)
                yield Trial(vcenter, web, loop, root)
        finally:
            loop.run_until_complete(session.__aexit__(None, None, None))
    finally:
        loop.close()
