"""The engine that backs up VMs, built from the configuration.

Owns: the sessions, repositories and transports that jobs use, each opened when it is first needed and kept, so that a
vCenter that does not answer or a repository that is not there fails the jobs that want it and nothing else.
"""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar

from offhost.acceptance.life import Acceptance
from offhost.acceptance.verdict import Step
from offhost.aio import Abandon, in_own_thread, in_thread, shielded
from offhost.backup.destination import Destination
from offhost.backup.directory import FolderBackup, VmFolder, folder_plan, vm_folder
from offhost.backup.host import HostBackup, host_plan
from offhost.backup.latency import LatencyLimit
from offhost.backup.plan import Planner
from offhost.backup.reading import ReadPolicy
from offhost.backup.replication import Replication
from offhost.backup.report import VmCopies, VmPlan, VmReport
from offhost.backup.vm import VmBackup, VmSettings
from offhost.chunking.compress import Codec, Compression
from offhost.chunking.workers import SpanWorkers
from offhost.clock import Clock
from offhost.config import Configuration
from offhost.daemon.auditing import change_log
from offhost.daemon.retention import by_job, expire_backed_up, expire_deleted
from offhost.daemon.switching import SwitchedOffBackup, keep_promises
from offhost.daemon.unlocking import unlock_described
from offhost.errors import Conflict, NotFound, OffhostError
from offhost.events import DiskProgress, Events, TrackingLied
from offhost.ids import RunId, VmId, random_id
from offhost.jobs.engine import VmEngine
from offhost.jobs.hosts import selected_hosts
from offhost.jobs.selection import Selection, selected, tags_asked
from offhost.jobs.spec import JobSpec
from offhost.jobs.subject import Subject
from offhost.pacing import Pace, Paces
from offhost.repository.lifetime.expiry import Judgement
from offhost.repository.repository import Repository
from offhost.restore.vm import VmRestore
from offhost.snapshot.growth import SnapshotLimits
from offhost.snapshot.held import HUNG_AFTER_S
from offhost.snapshot.leftovers import remove_leftovers
from offhost.snapshot.removal import RemovalTurns
from offhost.state import Claim, State
from offhost.transport.contract import Transport
from offhost.transport.datastore import DatastoreTransport, Mount
from offhost.transport.https import HttpsTransport
from offhost.vsphere.changes import Actor, acting
from offhost.vsphere.folder import FolderAccess
from offhost.vsphere.hosts import EsxHost, hosts
from offhost.vsphere.inventory import listing
from offhost.vsphere.latency import LatencyMeter
from offhost.vsphere.roster import Roster, roster
from offhost.vsphere.session import VSphere
from offhost.vsphere.snapshots import Owner
from offhost.vsphere.tags import tagged
from offhost.vsphere.trust import Endpoint
from offhost.vsphere.values import Vm

_log = logging.getLogger(__name__)

EngineScope: TypeAlias = Callable[[Configuration, State, Events, Clock], AbstractAsyncContextManager[VmEngine]]
"""Builds the engine; leaving the scope closes what it opened."""

T = TypeVar("T")

_CODECS = {"lz4": Codec.LZ4, "zstd": Codec.ZSTD, "none": Codec.RAW}


class _Opened(Generic[T]):
    """Things by name, each opened once, when first asked for; a failure to open is tried again the next time."""

    def __init__(self, open_one: Callable[[str], Coroutine[Any, Any, T]]) -> None:
        self._open = open_one
        self._locks: dict[str, asyncio.Lock] = {}
        self.items: dict[str, T] = {}

    async def get(self, name: str) -> T:
        async with self._locks.setdefault(name, asyncio.Lock()):
            if name not in self.items:
                self.items[name] = await self._open(name)
            return self.items[name]


class Engine:
    """Backs up the VMs of the configured vCenters into the configured repositories. Of one event loop."""

    def __init__(self, configuration: Configuration, state: State, events: Events, clock: Clock) -> None:
        self._configuration, self._state, self._events, self._clock = configuration, state, events, clock
        self._workers = SpanWorkers()
        self._sessions = _Opened(self._connect)
        self._folders: dict[str, FolderAccess] = {}
        self._meters: dict[str, LatencyMeter] = {}
        self._removals: dict[str, RemovalTurns] = {}
        self._pace = Pace(configuration.limits.read_rate, clock)
        self._job_paces: dict[str, Pace] = {}
        self._repositories = _Opened(self._open_repository)

    async def session(self, vcenter: str) -> VSphere:
        """The session with a vCenter. Raises: ConnectFailed, LoginFailed."""
        return await self._sessions.get(vcenter)

    async def destination(self, name: str) -> Destination:
        """A repository, ready to be written to. Raises: RepositoryError, BackendError."""
        return await self._repositories.get(name)

    async def way_back(self, vcenter: str, progress: Callable[[str, int, int], None]) -> VmRestore:
        """Restores VMs into a vCenter; `progress` is told a disk's label, bytes done and bytes in all."""
        session = await self.session(vcenter)
        return VmRestore(session, self._folder(vcenter, session), self._mounts(vcenter), self._workers, progress)

    async def acceptance(
        self, vcenter: str, progress: Callable[[str, int, int], None], told: Callable[[Step], object]
    ) -> Acceptance:
        """Shows with a VM of its own that a vCenter can be backed up and restored to."""
        session = await self.session(vcenter)
        return Acceptance(
            vsphere=session,
            restore=await self.way_back(vcenter, progress),
            transports=[DatastoreTransport(self._mounts(vcenter)), HttpsTransport(self._folder(vcenter, session))],
            owner=Owner(self._state.installation, RunId(random_id())),
            clock=self._clock,
            room=self._state.path,
            told=told,
        )

    async def select(self, job: JobSpec) -> Selection:
        """What the job means, now."""
        if job.folder is not None:
            return Selection([await _looked_at(job.folder.path)])
        session = await self.session(job.vcenter)
        if job.kind == "host":
            return selected_hosts(job, await hosts(session))
        opt_out_tag = self._configuration.opt_out_tag
        bearers = await tagged(session, tags_asked(job, opt_out_tag))
        return selected(job, await listing(session), bearers, opt_out_tag)

    async def back_up(
        self, job: JobSpec, subject: Subject, run_id: RunId, *, on_cancelled: Callable[[VmReport], None]
    ) -> VmReport:
        """Back up one of what `select` gave."""
        with acting(Actor("backup", run_id, job.name)):
            match subject:
                case VmFolder():
                    return await self._back_up_folder(job, subject, run_id, on_cancelled)
                case EsxHost():
                    return await (await self._host_backup(job, run_id)).run(subject)
                case Vm():
                    return await (await self._backup(job, subject, run_id, on_cancelled)).run(subject)
        raise TypeError(f"nothing is known about backing up a {type(subject).__name__}")

    async def expire(self, job: JobSpec, vms: Collection[VmId]) -> list[Judgement]:
        """Forget what the job's retention keeps no longer."""
        repository = (await self.destination(job.repository)).repository
        scheme = by_job([job], job.repository, self._state.installation)
        expired = await in_thread(expire_backed_up, repository, scheme, vms)
        if job.retention.after_vm_deleted is not None and job.kind == "image":
            present = await self.roster(job.vcenter)
            expired += await in_thread(expire_deleted, repository, scheme, present.ids, present.lacks)
        return expired

    async def roster(self, vcenter: str) -> Roster:
        """Which VMs a vCenter has. Raises: VSphereError."""
        return await roster(await self.session(vcenter))

    async def copy(self, job: JobSpec, report: VmReport, repository: str, run_id: RunId) -> VmCopies:
        """Copy the point that a backup has made, and those newer than the newest copy."""
        source = (await self.destination(job.repository)).repository
        stop = threading.Event()
        loop = asyncio.get_running_loop()

        def progress(what: str, done: int, total: int) -> None:
            event = DiskProgress(run_id, job.name, report.vm, f"{what}, to {repository}", done, total)
            loop.call_soon_threadsafe(self._events.publish, event)

        replication = Replication(source, await self.destination(repository), progress, stop)
        copy = partial(replication.copy_due, report.vm_id, str(report.point))
        points, newest = await in_own_thread(copy, interrupt=stop.set)
        return VmCopies(repository, points, newest)

    async def plan(self, job: JobSpec, subjects: Sequence[Subject]) -> list[VmPlan]:
        """What `back_up` would do."""
        vms = [subject for subject in subjects if isinstance(subject, Vm)]
        if vms:
            return await (await self._planner(job)).plans(vms)
        return [await self._plan_one(job, subject) for subject in subjects]

    async def _planner(self, job: JobSpec) -> Planner:
        session, destination = await self.session(job.vcenter), await self.destination(job.repository)
        return Planner(session, destination, self._settings(job, session), self._clock.now())

    async def _plan_one(self, job: JobSpec, subject: Subject) -> VmPlan:
        match subject:
            case VmFolder():
                switched_off = job.folder is not None and job.folder.switching_off is not None
                return await in_own_thread(partial(folder_plan, subject, switched_off=switched_off))
            case EsxHost():
                return host_plan(subject)
        raise TypeError(f"nothing is known about backing up a {type(subject).__name__}")

    async def remove_leftovers(self) -> list[str]:
        """Remove what dead runs of this installation left, in every vCenter; one that fails does not keep the rest.

        VMs that they shut down are started again first.
        """
        with acting(Actor("leftovers")):
            return await self._remove_leftovers()

    async def _remove_leftovers(self) -> list[str]:
        lines = await keep_promises(self._state, self._clock, self.session)
        for name in self._configuration.vcenters:
            try:
                session = await self.session(name)
                state = self._state
                removed = await remove_leftovers(session, state.installation, state.is_dead, claim=self._claimed)
                for leftover in removed:
                    outcome = f"could not be removed: {leftover.problem}" if leftover.problem else "removed"
                    lines.append(f"{name}: {leftover.vm}: the snapshot of the dead run {leftover.run}: {outcome}")
            except OffhostError as error:
                lines.append(f"{name}: not looked for: {error}")
        return lines

    def _claimed(self, vm_id: VmId) -> Claim | None:
        try:
            return self._state.claim_vm(vm_id, None)
        except Conflict:
            return None

    async def _backup(
        self, job: JobSpec, vm: Vm, run_id: RunId, on_cancelled: Callable[[VmReport], None] | None = None
    ) -> VmBackup:
        session = await self.session(job.vcenter)
        return VmBackup(
            vsphere=session,
            destination=await self.destination(job.repository),
            owner=Owner(self._state.installation, run_id),
            settings=self._settings(job, session),
            job=job.name,
            tags=job.tags,
            clock=self._clock,
            is_dead=self._state.is_dead,
            on_cancelled=on_cancelled,
            removals=self._removals.setdefault(job.vcenter, RemovalTurns(self._configuration.limits.removals)),
            on_lie=lambda disk, size: self._events.publish(TrackingLied(run_id, job.name, vm.name, disk, size)),
            progress=lambda disk, done, total: self._events.publish(
                DiskProgress(run_id, job.name, vm.name, disk, done, total)
            ),
        )

    def _settings(self, job: JobSpec, session: VSphere) -> VmSettings:
        return VmSettings(
            transports=self._transports(job, session),
            quiesce=job.quiesce,
            reads=ReadPolicy(job.mode, job.full_every, job.audit),
            snapshot=self._snapshot_limits(),
            consolidate=job.consolidate,
            paces=self._paces(job),
            latency=self._latency(job, session),
        )

    async def _back_up_folder(
        self, job: JobSpec, folder: VmFolder, run_id: RunId, on_cancelled: Callable[[VmReport], None]
    ) -> VmReport:
        backup = await self._folder_backup(job, folder, run_id, on_cancelled)
        if job.folder is None or job.folder.switching_off is None:
            return await backup.run(folder)
        switching = SwitchedOffBackup(
            vsphere=await self.session(job.vcenter),
            vcenter=job.vcenter,
            state=self._state,
            clock=self._clock,
            mounts={name: mount.path.resolve() for name, mount in self._mounts(job.vcenter).items()},
            terms=job.folder.switching_off,
            run_id=run_id,
            backup=backup,
        )
        return await switching.run(folder)

    async def _folder_backup(
        self, job: JobSpec, folder: VmFolder, run_id: RunId, on_cancelled: Callable[[VmReport], None]
    ) -> FolderBackup:
        loop = asyncio.get_running_loop()

        def progress(disk: str, done: int, total: int) -> None:
            event = DiskProgress(run_id, job.name, folder.name, disk, done, total)
            loop.call_soon_threadsafe(self._events.publish, event)

        return FolderBackup(
            destination=await self.destination(job.repository),
            clock=self._clock,
            made_by=self._made_by(job, run_id),
            progress=progress,
            on_cancelled=on_cancelled,
            tags=job.tags,
            paces=self._paces(job),
        )

    async def _host_backup(self, job: JobSpec, run_id: RunId) -> HostBackup:
        return HostBackup(
            vsphere=await self.session(job.vcenter),
            destination=await self.destination(job.repository),
            clock=self._clock,
            made_by=self._made_by(job, run_id),
            tags=job.tags,
        )

    def _made_by(self, job: JobSpec, run_id: RunId) -> dict[str, str]:
        """What a point says of its making: retention goes by the job, and by whose job it is."""
        return {"job": job.name, "installation": self._state.installation, "run": run_id}

    def _paces(self, job: JobSpec) -> Paces:
        """The bounds on what a job reads: one for all jobs, which share it fairly, and its own."""
        own = self._job_paces.setdefault(job.name, Pace(job.read_bytes_per_s, self._clock))
        own.limit(job.read_bytes_per_s)
        return Paces((self._pace, own), flow=job.name)

    def _snapshot_limits(self) -> SnapshotLimits:
        limits = self._configuration.limits
        return SnapshotLimits(limits.min_free, limits.snapshot_age, limits.snapshot_size)

    def _latency(self, job: JobSpec, session: VSphere) -> LatencyLimit | None:
        if job.datastore_latency_ms is None:
            return None
        meter = self._meters.setdefault(job.vcenter, LatencyMeter(session))
        return LatencyLimit(meter, job.datastore_latency_ms)

    def _transports(self, job: JobSpec, session: VSphere) -> list[Transport]:
        known: dict[str, Callable[[], Transport]] = {
            "datastore": lambda: DatastoreTransport(self._mounts(job.vcenter)),
            "https": lambda: HttpsTransport(self._folder(job.vcenter, session)),
        }
        return [known[name]() for name in job.transports]

    def _folder(self, vcenter: str, session: VSphere) -> FolderAccess:
        """The files on a vCenter's datastores."""
        if vcenter not in self._folders:
            self._folders[vcenter] = FolderAccess(session)
        return self._folders[vcenter]

    def _mounts(self, vcenter: str) -> dict[str, Mount]:
        """The datastores of a vCenter that this proxy has mounted, by name."""
        return {
            datastore.name: Mount(datastore.path, direct_io=datastore.direct_io)
            for datastore in self._configuration.datastores
            if datastore.vcenter == vcenter
        }

    async def _connect(self, name: str) -> VSphere:
        if name not in self._configuration.vcenters:
            raise NotFound(f"there is no vCenter `{name}`", hint="name one of proxy.yaml's vcenters")
        described = self._configuration.vcenters[name]
        return await VSphere.connect(
            Endpoint(
                host=described.host,
                port=described.port,
                user=described.user,
                password=described.password.resolve,
                thumbprint=described.thumbprint,
                ca_file=described.ca_file,
            ),
            change_log(self._state.audit, self._state.installation, self._clock),
        )

    async def _open_repository(self, name: str) -> Destination:
        described = self._configuration.repositories[name]
        repository = await in_thread(
            lambda: Repository.open(
                described.path,
                unlock_described(described),
                cache=self._state.path / "index",
                clock=self._clock,
            )
        )
        compression = Compression(_CODECS[described.compression])
        return Destination(repository, self._workers, compression, described.write_check)

    async def close(self) -> None:
        """Close what was opened; one that fails to does not keep the others open."""
        for folder in self._folders.values():
            folder.close()
        await asyncio.gather(*(session.close() for session in self._sessions.items.values()), return_exceptions=True)
        for destination in self._repositories.items.values():
            await in_thread(destination.repository.close)
        await in_thread(self._workers.close)


async def _looked_at(path: Path) -> VmFolder:
    """Who lies in a folder; where its mount hangs, that costs the threads that others share nothing."""

    def hangs() -> None:
        _log.error("%s: cannot be looked at: its file system does not answer", path)

    return await in_own_thread(vm_folder, path, abandon=Abandon(HUNG_AFTER_S, hangs))


@asynccontextmanager
async def vm_engine(configuration: Configuration, state: State, events: Events, clock: Clock) -> AsyncIterator[Engine]:
    """The engine over the configuration's vCenters, datastores and repositories."""
    engine = Engine(configuration, state, events, clock)
    try:
        yield engine
    finally:
        await shielded(engine.close())
