"""What jobs and commands work with, built from the configuration: sessions, repositories, transports, bounds.

Owns: each of them, opened when it is first needed and kept, so that a vCenter that does not answer or a repository that
is not there fails what wants it and nothing else. Does not own: what is done with them (engine, and the commands).
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Generic, TypeVar

from offhost.acceptance.life import Acceptance
from offhost.acceptance.verdict import Step
from offhost.aio import in_thread, shielded
from offhost.backup.destination import Destination
from offhost.backup.latency import LatencyLimit
from offhost.backup.reading import ReadPolicy
from offhost.backup.vm import VmSettings
from offhost.chunking.compress import Codec, Compression
from offhost.chunking.workers import SpanWorkers
from offhost.clock import Clock
from offhost.config import Configuration
from offhost.daemon.auditing import change_log
from offhost.daemon.unlocking import unlock_described
from offhost.errors import NotFound
from offhost.ids import RunId, random_id
from offhost.jobs.spec import JobSpec
from offhost.pacing import Pace, Paces
from offhost.repository.repository import Repository
from offhost.restore.vm import VmRestore
from offhost.snapshot.growth import SnapshotLimits
from offhost.snapshot.removal import RemovalTurns
from offhost.state import State
from offhost.transport.contract import Transport
from offhost.transport.datastore import DatastoreTransport, Mount
from offhost.transport.https import HttpsTransport
from offhost.vsphere.folder import FolderAccess
from offhost.vsphere.latency import LatencyMeter
from offhost.vsphere.roster import Roster, roster
from offhost.vsphere.session import VSphere
from offhost.vsphere.snapshots import Owner
from offhost.vsphere.trust import Endpoint

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


class Resources:
    """The configured vCenters, datastores and repositories. Of one event loop."""

    def __init__(self, configuration: Configuration, state: State, clock: Clock) -> None:
        self.configuration, self.state, self.clock = configuration, state, clock
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
        return VmRestore(session, self._folder(vcenter, session), self.mounts(vcenter), self._workers, progress)

    async def roster(self, vcenter: str) -> Roster:
        """Which VMs a vCenter has. Raises: VSphereError."""
        return await roster(await self.session(vcenter))

    async def acceptance(
        self, vcenter: str, progress: Callable[[str, int, int], None], told: Callable[[Step], object]
    ) -> Acceptance:
        """Shows with a VM of its own that a vCenter can be backed up and restored to."""
        session = await self.session(vcenter)
        return Acceptance(
            vsphere=session,
            restore=await self.way_back(vcenter, progress),
            transports=[DatastoreTransport(self.mounts(vcenter)), HttpsTransport(self._folder(vcenter, session))],
            owner=Owner(self.state.installation, RunId(random_id())),
            clock=self.clock,
            room=self.state.path,
            told=told,
        )

    def settings(self, job: JobSpec, session: VSphere) -> VmSettings:
        """How a job wants VMs backed up."""
        return VmSettings(
            transports=self._transports(job, session),
            quiesce=job.quiesce,
            reads=ReadPolicy(job.mode, job.full_every, job.audit),
            snapshot=self._snapshot_limits(),
            consolidate=job.consolidate,
            paces=self.paces(job),
            latency=self._latency(job, session),
        )

    def removals(self, vcenter: str) -> RemovalTurns:
        """Whose turn it is to remove snapshots."""
        return self._removals.setdefault(vcenter, RemovalTurns(self.configuration.limits.removals))

    def paces(self, job: JobSpec) -> Paces:
        """The bounds on what a job reads: one for all jobs, which share it fairly, and its own."""
        own = self._job_paces.setdefault(job.name, Pace(job.read_bytes_per_s, self.clock))
        own.limit(job.read_bytes_per_s)
        return Paces((self._pace, own), flow=job.name)

    def _snapshot_limits(self) -> SnapshotLimits:
        limits = self.configuration.limits
        return SnapshotLimits(limits.min_free, limits.snapshot_age, limits.snapshot_size)

    def _latency(self, job: JobSpec, session: VSphere) -> LatencyLimit | None:
        if job.datastore_latency_ms is None:
            return None
        meter = self._meters.setdefault(job.vcenter, LatencyMeter(session))
        return LatencyLimit(meter, job.datastore_latency_ms)

    def _transports(self, job: JobSpec, session: VSphere) -> list[Transport]:
        known: dict[str, Callable[[], Transport]] = {
            "datastore": lambda: DatastoreTransport(self.mounts(job.vcenter)),
            "https": lambda: HttpsTransport(self._folder(job.vcenter, session)),
        }
        return [known[name]() for name in job.transports]

    def _folder(self, vcenter: str, session: VSphere) -> FolderAccess:
        """The files on a vCenter's datastores."""
        if vcenter not in self._folders:
            self._folders[vcenter] = FolderAccess(session)
        return self._folders[vcenter]

    def mounts(self, vcenter: str) -> dict[str, Mount]:
        """The datastores of a vCenter that this proxy has mounted, by name."""
        return {
            datastore.name: Mount(datastore.path, direct_io=datastore.direct_io)
            for datastore in self.configuration.datastores
            if datastore.vcenter == vcenter
        }

    async def _connect(self, name: str) -> VSphere:
        if name not in self.configuration.vcenters:
            raise NotFound(f"there is no vCenter `{name}`", hint="name one of proxy.yaml's vcenters")
        described = self.configuration.vcenters[name]
        return await VSphere.connect(
            Endpoint(
                host=described.host,
                port=described.port,
                user=described.user,
                password=described.password.resolve,
                thumbprint=described.thumbprint,
                ca_file=described.ca_file,
            ),
            change_log(self.state.audit, self.state.installation, self.clock),
        )

    async def _open_repository(self, name: str) -> Destination:
        described = self.configuration.repositories[name]
        repository = await in_thread(
            lambda: Repository.open(
                described.path,
                unlock_described(described),
                cache=self.state.path / "index",
                clock=self.clock,
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


@asynccontextmanager
async def resources(configuration: Configuration, state: State, clock: Clock) -> AsyncIterator[Resources]:
    """Resources for a scope, whose end closes what was opened."""
    opened = Resources(configuration, state, clock)
    try:
        yield opened
    finally:
        await shielded(opened.close())
