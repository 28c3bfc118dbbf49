"""VMs of the simulated vCenter, backed up into real repositories, and compared with what their guests saw."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from offhost.backup.audit import AuditPolicy
from offhost.backup.base import ReadMode
from offhost.backup.destination import Destination
from offhost.backup.latency import LatencyLimit
from offhost.backup.plan import Planner
from offhost.backup.reading import ReadPolicy
from offhost.backup.report import VmPlan, VmReport
from offhost.backup.vm import VmBackup, VmSettings
from offhost.blockio import ReadAt, read_bytes
from offhost.clock import SystemClock
from offhost.extents import ExtentMap
from offhost.ids import RunId, random_id
from offhost.pacing import UNBOUND, Paces
from offhost.repository.points.manifest import Manifest
from offhost.snapshot.growth import SnapshotLimits
from offhost.transport.contract import OpenDisk, Transport
from offhost.vsphere.session import VSphere
from offhost.vsphere.snapshots import Owner
from offhost.vsphere.values import Disk, QuiescePolicy, Vm
from support.held_vms import OWNER, mounted
from support.sessions import found
from support.vcenter import SimulatedVCenter


@dataclass(frozen=True, slots=True)
class ClockAhead(SystemClock):
    """The system's clock, by so much later."""

    by: timedelta

    def now(self) -> datetime:
        return SystemClock.now(self) + self.by


@dataclass(frozen=True, slots=True)
class BackedUpVm:
    """One VM, and how to back it up."""

    vcenter: SimulatedVCenter
    vsphere: VSphere
    destination: Destination
    moref: str

    @property
    def disk_key(self) -> int:
        """The device key of its first disk."""
        return self.vcenter.disks(self.moref)[0].key

    def write(self, offset: int, data: bytes) -> None:
        """As the guest does."""
        self.vcenter.write(self.moref, self.disk_key, offset, data)

    def backup(
        self,
        *,
        transports: list[Transport] | None = None,
        quiesce: QuiescePolicy | None = None,
        mode: ReadMode = "incremental",
        full_every: timedelta | None = None,
        audit: AuditPolicy | None = None,
        min_free: float = 0.0,
        snapshot: SnapshotLimits | None = None,
        consolidate: bool = False,
        hung_after_s: float = 60.0,
        stalled_after_s: float = 900.0,
        paces: Paces = UNBOUND,
        latency: LatencyLimit | None = None,
        on_cancelled: Callable[[VmReport], None] | None = None,
        on_lie: Callable[[str, int], None] | None = None,
        is_dead: Callable[[RunId], bool] | None = None,
        days_later: float = 0,
    ) -> VmBackup:
        settings = VmSettings(
            transports=mounted(self.vcenter) if transports is None else transports,
            quiesce=quiesce or QuiescePolicy("off"),
            reads=ReadPolicy(mode, full_every, audit or AuditPolicy()),
            snapshot=snapshot or SnapshotLimits(min_free),
            consolidate=consolidate,
            hung_after_s=hung_after_s,
            stalled_after_s=stalled_after_s,
            paces=paces,
            latency=latency,
        )
        owner = Owner(OWNER.installation, RunId(random_id()))
        return VmBackup(
            vsphere=self.vsphere,
            destination=self.destination,
            owner=owner,
            settings=settings,
            clock=ClockAhead(timedelta(days=days_later)),
            progress=lambda *_: None,
            is_dead=is_dead or (lambda run: run != owner.run),
            on_cancelled=on_cancelled,
            on_lie=on_lie,
        )

    async def run(self, **changes: Any) -> VmReport:
        """Back up once."""
        return await self.backup(**changes).run(await found(self.vsphere, self.moref))

    async def planned(self, **changes: Any) -> VmPlan:
        """What a backup would do now."""
        planner = Planner(self.vsphere, self.destination, self.backup(**changes).settings, SystemClock().now())
        (plan,) = await planner.plans([await found(self.vsphere, self.moref)])
        return plan

    def point(self, report: VmReport) -> Manifest:
        """The point that a run committed."""
        assert report.problem is None, report.problem
        assert report.point is not None
        return self.destination.repository.points.find(report.point)

    def content(self, report: VmReport, disk: int = 0) -> bytes:
        """A disk of a run's point, read back."""
        point = self.point(report)
        source = self.destination.repository.restore_point(point).disk(point.disks[disk].key)
        return read_bytes(source, 0, source.size_bytes)

    def seen_by_guest(self, disk: int = 0) -> bytes:
        """What the guest sees of a disk now."""
        return self.vcenter.read(self.moref, self.vcenter.disks(self.moref)[disk].key)

    def snapshots(self) -> list[str]:
        """The names of the snapshots the VM has."""
        return [one.name for one in self.vcenter.snapshots(self.moref)]


@dataclass(slots=True)
class Interrupted:
    """The transports' disks, with something that happens while the first byte is read."""

    inner: Transport
    happens: Callable[[], None]
    _once: threading.Lock = field(default_factory=threading.Lock)

    @property
    def name(self) -> str:
        return self.inner.name

    def refusal(self, vm: Vm, disk: Disk) -> str | None:
        return self.inner.refusal(vm, disk)

    def open(self, vm: Vm, disk: Disk) -> OpenDisk:
        opened = self.inner.open(vm, disk)
        return replace(opened, source=_Source(opened.source, self._happen))

    def fetch(self, path: str, limit_bytes: int) -> bytes:
        return self.inner.fetch(path, limit_bytes)

    def _happen(self) -> None:
        if self._once.acquire(blocking=False):
            self.happens()


@dataclass(frozen=True, slots=True)
class _Source:
    inner: ReadAt
    before_reading: Callable[[], None]

    @property
    def size_bytes(self) -> int:
        return self.inner.size_bytes

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self.before_reading()
        self.inner.read_into(offset, buffer)

    def allocated(self) -> ExtentMap:
        return self.inner.allocated()

    def close(self) -> None:
        self.inner.close()
