"""The engine that backs up what jobs select, over the configuration's resources.

Owns: which backup each kind of subject gets. Does not own: what the backups work with (resources).
"""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TypeAlias

from offhost.aio import Abandon, in_own_thread, in_thread
from offhost.backup.directory import FolderBackup, VmFolder, folder_plan, vm_folder
from offhost.backup.host import HostBackup, host_plan
from offhost.backup.plan import Planner
from offhost.backup.replication import Replication
from offhost.backup.report import VmCopies, VmPlan, VmReport
from offhost.backup.vm import VmBackup
from offhost.clock import Clock
from offhost.config import Configuration
from offhost.daemon.resources import Resources, resources
from offhost.daemon.retention import by_job, expire_backed_up, expire_deleted
from offhost.daemon.switching import SwitchedOffBackup, keep_promises
from offhost.errors import Conflict, OffhostError
from offhost.events import DiskProgress, Events, TrackingLied
from offhost.ids import RunId, VmId
from offhost.jobs.engine import VmEngine
from offhost.jobs.hosts import selected_hosts
from offhost.jobs.selection import Selection, selected, tags_asked
from offhost.jobs.spec import JobSpec
from offhost.jobs.subject import Subject
from offhost.repository.lifetime.expiry import Judgement
from offhost.snapshot.held import HUNG_AFTER_S
from offhost.snapshot.leftovers import remove_leftovers
from offhost.state import Claim, State
from offhost.vsphere.changes import Actor, acting
from offhost.vsphere.hosts import EsxHost, hosts
from offhost.vsphere.inventory import listing
from offhost.vsphere.snapshots import Owner
from offhost.vsphere.tags import tagged
from offhost.vsphere.values import Vm

_log = logging.getLogger(__name__)

EngineScope: TypeAlias = Callable[[Configuration, State, Events, Clock], AbstractAsyncContextManager[VmEngine]]
"""Builds the engine; leaving the scope closes what it opened."""


class Engine:
    """Backs up the VMs of the configured vCenters into the configured repositories. Of one event loop."""

    def __init__(self, resources: Resources, events: Events) -> None:
        self.resources, self._events = resources, events
        self._configuration, self._state, self._clock = resources.configuration, resources.state, resources.clock

    async def select(self, job: JobSpec) -> Selection:
        """What the job means, now."""
        if job.folder is not None:
            return Selection([await _looked_at(job.folder.path)])
        session = await self.resources.session(job.vcenter)
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
        repository = (await self.resources.destination(job.repository)).repository
        scheme = by_job([job], job.repository, self._state.installation)
        expired = await in_thread(expire_backed_up, repository, scheme, vms)
        if job.retention.after_vm_deleted is not None and job.kind == "image":
            present = await self.resources.roster(job.vcenter)
            expired += await in_thread(expire_deleted, repository, scheme, present.ids, present.lacks)
        return expired

    async def copy(self, job: JobSpec, report: VmReport, repository: str, run_id: RunId) -> VmCopies:
        """Copy the point that a backup has made, and those newer than the newest copy."""
        source = (await self.resources.destination(job.repository)).repository
        stop = threading.Event()
        loop = asyncio.get_running_loop()

        def progress(what: str, done: int, total: int) -> None:
            event = DiskProgress(run_id, job.name, report.vm, f"{what}, to {repository}", done, total)
            loop.call_soon_threadsafe(self._events.publish, event)

        replication = Replication(source, await self.resources.destination(repository), progress, stop)
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
        session, destination = (
            await self.resources.session(job.vcenter),
            await self.resources.destination(job.repository),
        )
        return Planner(session, destination, self.resources.settings(job, session), self._clock.now())

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
        lines = await keep_promises(self._state, self._clock, self.resources.session)
        for name in self._configuration.vcenters:
            try:
                session = await self.resources.session(name)
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
        session = await self.resources.session(job.vcenter)
        return VmBackup(
            vsphere=session,
            destination=await self.resources.destination(job.repository),
            owner=Owner(self._state.installation, run_id),
            settings=self.resources.settings(job, session),
            job=job.name,
            tags=job.tags,
            clock=self._clock,
            is_dead=self._state.is_dead,
            on_cancelled=on_cancelled,
            removals=self.resources.removals(job.vcenter),
            on_lie=lambda disk, size: self._events.publish(TrackingLied(run_id, job.name, vm.name, disk, size)),
            progress=lambda disk, done, total: self._events.publish(
                DiskProgress(run_id, job.name, vm.name, disk, done, total)
            ),
        )

    async def _back_up_folder(
        self, job: JobSpec, folder: VmFolder, run_id: RunId, on_cancelled: Callable[[VmReport], None]
    ) -> VmReport:
        backup = await self._folder_backup(job, folder, run_id, on_cancelled)
        if job.folder is None or job.folder.switching_off is None:
            return await backup.run(folder)
        switching = SwitchedOffBackup(
            vsphere=await self.resources.session(job.vcenter),
            vcenter=job.vcenter,
            state=self._state,
            clock=self._clock,
            mounts={name: mount.path.resolve() for name, mount in self.resources.mounts(job.vcenter).items()},
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
            destination=await self.resources.destination(job.repository),
            clock=self._clock,
            made_by=self._made_by(job, run_id),
            progress=progress,
            on_cancelled=on_cancelled,
            tags=job.tags,
            paces=self.resources.paces(job),
        )

    async def _host_backup(self, job: JobSpec, run_id: RunId) -> HostBackup:
        return HostBackup(
            vsphere=await self.resources.session(job.vcenter),
            destination=await self.resources.destination(job.repository),
            clock=self._clock,
            made_by=self._made_by(job, run_id),
            tags=job.tags,
        )

    def _made_by(self, job: JobSpec, run_id: RunId) -> dict[str, str]:
        """What a point says of its making: retention goes by the job, and by whose job it is."""
        return {"job": job.name, "installation": self._state.installation, "run": run_id}


async def _looked_at(path: Path) -> VmFolder:
    """Who lies in a folder; where its mount hangs, that costs the threads that others share nothing."""

    def hangs() -> None:
        _log.error("%s: cannot be looked at: its file system does not answer", path)

    return await in_own_thread(vm_folder, path, abandon=Abandon(HUNG_AFTER_S, hangs))


@asynccontextmanager
async def vm_engine(configuration: Configuration, state: State, events: Events, clock: Clock) -> AsyncIterator[Engine]:
    """The engine over the configuration's vCenters, datastores and repositories."""
    async with resources(configuration, state, clock) as opened:
        yield Engine(opened, events)
