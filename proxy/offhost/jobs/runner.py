"""One execution of a job, from its record's opening to its closing.

Owns: the order of things in a run, that one VM's failure stays its own, and that every run's record is closed,
whatever ends it. Does not own: the backup of a VM (the engine), when runs begin (schedule, dispatch).
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

from offhost.aio import in_thread, shielded
from offhost.backup.report import Problem, VmPlan, VmReport
from offhost.catalog import Catalog, ExpiredRow, RunRow, RunState
from offhost.clock import Clock, rfc3339
from offhost.errors import OffhostError, StateError
from offhost.events import Events, RunEnded, RunStarted, VmEnded
from offhost.ids import RunId, random_id
from offhost.jobs.copying import Copying
from offhost.jobs.engine import VmEngine
from offhost.jobs.record import expired_row, problem_of, problem_row, vm_row
from offhost.jobs.selection import LeftOut
from offhost.jobs.slots import SlotKey, Slots
from offhost.jobs.spec import JobSpec, Trigger
from offhost.jobs.subject import Subject
from offhost.retention import RetentionPolicy
from offhost.state import State

_log = logging.getLogger(__name__)

_CANCELLED = Problem("cancelled", "the run was cancelled before this VM was done", None)


@dataclass(frozen=True, slots=True)
class BegunRun:
    """A run whose record is open and whose claims are held: it must be executed, which closes both."""

    id: RunId
    job: JobSpec
    claims: ExitStack


@dataclass(frozen=True, slots=True)
class JobPlan:
    """What a run would do, if it began now: to which VMs, and to which not though the job names them."""

    job: str
    vms: tuple[VmPlan, ...]
    left_out: tuple[LeftOut, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Outcome:
    state: RunState
    warnings: tuple[str, ...] = ()
    problem: Problem | None = None
    expired: tuple[ExpiredRow, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Runner:
    """Executes jobs, many at once; `vms` is how many VMs the proxy backs up at once, over all of them."""

    engine: VmEngine
    catalog: Catalog
    state: State
    events: Events
    clock: Clock
    vms: int
    slots: Slots

    async def run(self, job: JobSpec, trigger: Trigger) -> RunRow:
        """Execute a job and return its closed record. Cancelled, it cleans up, closes the record and says so.

        Raises: Conflict when the job is running already, StateError when the record cannot be opened or closed.
        """
        return await self.execute(await self.begin(job, trigger))

    async def begin(self, job: JobSpec, trigger: Trigger) -> BegunRun:
        """Claim the job and open a run's record.

        Raises: Conflict when the job is running already, StateError.
        """
        run_id = RunId(random_id())
        with ExitStack() as claims:
            claims.enter_context(self.state.claim_job(job.name, run_id))
            claims.enter_context(self.state.claim_run(run_id))
            add = partial(self.catalog.add_run, run_id, job=job.name, trigger=trigger, started=self._now())
            await in_thread(add)
            self.events.publish(RunStarted(run_id, job.name, self.clock.now()))
            return BegunRun(run_id, job, claims.pop_all())

    async def execute(self, run: BegunRun) -> RunRow:
        """Do what the run is for and close it. See `run`."""
        with run.claims:
            expired: list[ExpiredRow] = []
            try:
                outcome = await self._back_up_all(run, expired)
            except asyncio.CancelledError:
                await shielded(self._end(run, _Outcome("cancelled", expired=tuple(expired))))
                raise
            return await shielded(self._end(run, outcome))

    async def plan(self, job: JobSpec) -> JobPlan:
        """What a run would do now, VM by VM, touching nothing.

        Raises: OffhostError when the inventory cannot be read.
        """
        selection = await self.engine.select(job)
        vms = await self.engine.plan(job, selection.chosen)
        changes = await in_thread(self.catalog.last_changes, job.name)
        return JobPlan(job.name, tuple(_estimated(vm, changes) for vm in vms), selection.left_out, selection.warnings)

    async def _back_up_all(self, run: BegunRun, expired: list[ExpiredRow]) -> _Outcome:
        """Back the job's VMs up, then let expire what they need no longer; `expired` is told what was forgotten."""
        try:
            selection = await self.engine.select(run.job)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is on the run's record, and the record closes
            _note(error, f"run {run.id} of job {run.job.name} could not select its VMs")
            return _Outcome("failed", problem=problem_of(error))
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._recorded(run, vm), name=f"{run.job.name}/{vm.name}") for vm in selection.chosen
            ]
        reports = [task.result() for task in tasks]
        warnings = selection.warnings + (() if reports else ("the job selects no VM",))
        warnings += await shielded(self._expire(run, reports, expired))
        if any(report.problem for report in reports):
            return _Outcome("failed", warnings, expired=tuple(expired))
        warned = warnings or any(report.warnings for report in reports)
        return _Outcome("warning" if warned else "success", warnings, expired=tuple(expired))

    async def _expire(self, run: BegunRun, reports: Sequence[VmReport], expired: list[ExpiredRow]) -> tuple[str, ...]:
        """Apply the job's retention to the VMs that were backed up; that it failed is a warning, which is returned."""
        if run.job.retention == RetentionPolicy():
            return ()
        try:
            forgotten = await self.engine.expire(run.job, [report.vm_id for report in reports if not report.problem])
        except Exception as error:  # noqa: BLE001 - whatever it is, the backups are what they are
            _note(error, f"run {run.id} of job {run.job.name} could not apply its retention")
            return (f"retention was not applied: {problem_of(error).message}",)
        expired += map(expired_row, forgotten)
        return ()

    async def _recorded(self, run: BegunRun, vm: Subject) -> VmReport:
        """Back up a VM and write down what became of it, also when it is cancelled. Raises nothing else."""
        started = self._now()
        told: list[VmReport] = []
        try:
            report = await self._back_up(run, vm, told.append)
        except asyncio.CancelledError:
            report = _cancelled(told[-1]) if told else self._failed(vm, started, _CANCELLED)
            await shielded(self._record(run, report))
            raise
        except Exception as error:  # noqa: BLE001 - one VM's fault, even ours, must not end the others
            _note(error, f"VM {vm.name} failed in run {run.id} of job {run.job.name}")
            report = self._failed(vm, started, problem_of(error))
        await shielded(self._record(run, report))
        return report

    async def _back_up(self, run: BegunRun, vm: Subject, on_cancelled: Callable[[VmReport], None]) -> VmReport:
        async with self.slots.held(self._limits(run.job, vm)):
            with self.state.claim_vm(vm.id, run.id):
                report = await self.engine.back_up(run.job, vm, run.id, on_cancelled=on_cancelled)
        if report.point is None:
            return report
        return await Copying(self.engine, self.slots, self.clock).copied(run.job, report, run.id, on_cancelled)

    def _limits(self, job: JobSpec, vm: Subject) -> Mapping[SlotKey, int]:
        limits: dict[SlotKey, int] = {("proxy",): self.vms}
        if job.vms is not None:
            limits["job", job.name] = job.vms
        for datastore in vm.datastores:
            limits["datastore", job.vcenter, datastore] = job.vms_per_datastore or self.vms
        if vm.host:
            limits["host", job.vcenter, vm.host] = job.vms_per_host or self.vms
        return limits

    async def _record(self, run: BegunRun, report: VmReport) -> None:
        try:
            await in_thread(self.catalog.add_vm, run.id, vm_row(report))
        except StateError:
            # The backup itself is what it is; a history that cannot be written must not end the other VMs.
            _log.exception("the record of VM %s in run %s could not be written", report.vm, run.id)
        self.events.publish(
            VmEnded(
                run.id,
                run.job.name,
                vm=report.vm,
                ok=report.problem is None,
                read_bytes=sum(disk.read_bytes for disk in report.disks),
                stored_bytes=sum(disk.stored_bytes for disk in report.disks),
                host_bytes=sum(disk.host_bytes for disk in report.disks),
            )
        )

    async def _end(self, run: BegunRun, outcome: _Outcome) -> RunRow:
        end = partial(
            self.catalog.end_run,
            run.id,
            state=outcome.state,
            ended=self._now(),
            warnings=outcome.warnings,
            problem=problem_row(outcome.problem),
            expired=outcome.expired,
        )
        try:
            await in_thread(end)
        finally:
            self.events.publish(RunEnded(run.id, run.job.name, self.clock.now(), outcome.state))
        return await in_thread(self.catalog.run, run.id)

    def _failed(self, vm: Subject, started: str, problem: Problem) -> VmReport:
        return VmReport(
            vm=vm.name,
            vm_id=vm.id,
            point=None,
            consistency=None,
            disks=(),
            warnings=(),
            problem=problem,
            started=started,
            ended=self._now(),
        )

    def _now(self) -> str:
        return rfc3339(self.clock.now())


def _estimated(vm: VmPlan, changes: Mapping[tuple[str, str], int]) -> VmPlan:
    """With what had changed at the last run for what would be read of it now."""
    disks = (
        disk if disk.mode in ("full", "refused") else replace(disk, about_bytes=changes.get((vm.vm_id, disk.key)))
        for disk in vm.disks
    )
    return replace(vm, disks=tuple(disks))


def _cancelled(report: VmReport) -> VmReport:
    """What a cancelled backup reports, as the record has it: without a point, the cancellation is why there is none."""
    return report if report.point or report.problem else replace(report, problem=_CANCELLED)


def _note(error: Exception, what: str) -> None:
    """Log what will stand on the run, and for a fault of our own where it happened."""
    if isinstance(error, OffhostError):
        _log.error("%s: %s", what, error)
    else:
        _log.error("%s", what, exc_info=error)
