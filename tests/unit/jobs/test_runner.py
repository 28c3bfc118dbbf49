"""A run's record says what became of every VM, is always closed, and one VM's failure is its own."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from offhost.backup.report import Problem
from offhost.catalog import Catalog, ExpiredRow, RunRow
from offhost.errors import Conflict, LoginFailed, PackCorrupt
from offhost.events import Event, RunEnded, RunStarted, VmEnded
from offhost.ids import RunId, SessionId, VmId
from offhost.jobs.runner import Runner
from offhost.jobs.spec import Rule
from offhost.repository.lifetime.expiry import Judgement
from offhost.retention import RetentionPolicy
from offhost.state import State
from support.small_engine import SmallEngine, job, report, vm
from support.waiting import until

FAILURE = Problem("snapshot_failed", "no snapshot could be made", "look at the VM's events")


async def test_a_run_in_which_all_went_well_is_a_success(runner: Runner) -> None:
    run = await runner.run(job(), "cli")
    assert (run.state, run.job, run.trigger, run.problem) == ("success", "nightly", "cli", None)
    assert sorted(row.vm for row in run.vms) == ["web01", "web02"]
    assert all(row.point and row.disks[0].stored_bytes == 128 for row in run.vms)
    assert run.ended is not None


async def test_one_failing_vm_fails_the_run_and_leaves_the_others_alone(runner: Runner, engine: SmallEngine) -> None:
    engine.endings["web01"] = lambda it: report(it, problem=FAILURE)
    run = await runner.run(job(), "cli")
    assert run.state == "failed"
    assert {row.vm: row.problem.code if row.problem else None for row in run.vms} == {
        "web01": "snapshot_failed",
        "web02": None,
    }


async def test_a_fault_in_the_engine_stays_with_its_vm_too(runner: Runner, engine: SmallEngine) -> None:
    def fault(_: object) -> None:
        raise ZeroDivisionError("oops")

    engine.endings["web01"] = fault  # type: ignore[assignment]  # this is the fault
    run = await runner.run(job(), "cli")
    problems = {row.vm: row.problem for row in run.vms}
    assert problems["web02"] is None
    assert problems["web01"] is not None
    assert problems["web01"].code == "internal"
    assert "oops" in problems["web01"].message


async def test_a_warning_on_a_vm_is_a_warning_on_the_run(runner: Runner, engine: SmallEngine) -> None:
    engine.endings["web01"] = lambda it: report(it, warnings=("quiescing failed",))
    assert (await runner.run(job(), "cli")).state == "warning"


async def test_a_job_that_selects_nothing_says_so(runner: Runner, engine: SmallEngine) -> None:
    engine.vms = []
    run = await runner.run(job(), "cli")
    assert (run.state, run.warnings) == ("warning", ("`include` names no VM with name: *", "the job selects no VM"))


async def test_a_vcenter_that_refuses_fails_the_run_with_its_reason(runner: Runner, engine: SmallEngine) -> None:
    engine.refuses = LoginFailed("vc: wrong password", hint="look at the credential")
    run = await runner.run(job(), "cli")
    assert run.state == "failed"
    assert run.problem is not None
    assert (run.problem.code, run.problem.hint) == ("vsphere_login", "look at the credential")


async def test_events_tell_of_the_run_in_order(runner: Runner, told: list[Event]) -> None:
    run = await runner.run(job(), "cli")
    assert [type(event) for event in told] == [RunStarted, VmEnded, VmEnded, RunEnded]
    assert {event.run_id for event in told} == {run.id}
    assert isinstance(told[-1], RunEnded)
    assert told[-1].state == "success"


async def test_a_cancelled_run_cleans_up_and_closes_its_record(
    runner: Runner, engine: SmallEngine, catalog: Catalog, state: State
) -> None:
    engine.gate = asyncio.Event()
    task = asyncio.get_running_loop().create_task(runner.run(job(vms=1), "cli"))
    await until(lambda: engine.under_way)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    (run,) = catalog.runs(limit=10)
    assert run.state == "cancelled"
    assert [row.problem and row.problem.code for row in catalog.run(run.id).vms] == ["cancelled", "cancelled"]
    assert engine.cleaned_up == ["web01"]
    assert state.is_dead(run.id)


async def test_what_cancelled_vms_report_stays_on_the_record(
    runner: Runner, engine: SmallEngine, catalog: Catalog
) -> None:
    committed, warned, failed = (
        report(vm("web01")),
        replace(report(vm("web02"), warnings=("the snapshot stays",)), point=None),
        report(vm("web03"), problem=FAILURE),
    )
    engine.vms = [vm("web01"), vm("web02"), vm("web03")]
    engine.last_words = {"web01": committed, "web02": warned, "web03": failed}
    engine.gate = asyncio.Event()
    task = asyncio.get_running_loop().create_task(runner.run(job(), "cli"))
    await until(lambda: len(engine.under_way) == 3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    (run,) = catalog.runs(limit=10)
    rows = {row.vm: row for row in catalog.run(run.id).vms}
    assert run.state == "cancelled"
    assert (rows["web01"].point, rows["web01"].problem) == (committed.point, None)
    assert rows["web02"].warnings == ("the snapshot stays",)
    assert [rows[name].problem.code for name in ("web02", "web03")] == ["cancelled", "snapshot_failed"]  # type: ignore[union-attr]  # both have one


async def test_a_run_is_alive_for_other_processes_while_it_goes_on(
    runner: Runner, engine: SmallEngine, catalog: Catalog, state: State
) -> None:
    engine.gate = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(runner.run(job(), "cli"))
        await until(lambda: engine.under_way)
        (run,) = catalog.runs(limit=10)
        assert run.state == "running"
        assert not state.is_dead(run.id)
        engine.gate.set()
    assert state.is_dead(run.id)


async def test_a_job_does_not_overlap_itself(runner: Runner, engine: SmallEngine) -> None:
    engine.gate = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(runner.run(job(), "cli"))
        await until(lambda: engine.under_way)
        with pytest.raises(Conflict, match="nightly is being executed by run"):
            await runner.run(job(), "schedule")
        engine.gate.set()
    assert (await runner.run(job(), "schedule")).state == "success"


async def test_a_vm_another_run_works_on_is_refused_by_name_of_that_run(runner: Runner, state: State) -> None:
    with state.claim_vm(VmId("vc/web01"), RunId("a" * 32)):
        run = await runner.run(job(), "cli")
    problem = next(row.problem for row in run.vms if row.vm == "web01")
    assert run.state == "failed"
    assert problem is not None
    assert problem.code == "conflict"
    assert "a" * 32 in problem.message


@pytest.mark.parametrize(("limits", "most"), [({}, 4), ({"vms": 2}, 2), ({"vms_per_datastore": 1}, 2)])
async def test_no_more_vms_at_once_than_the_limits_allow(
    runner: Runner, engine: SmallEngine, limits: dict[str, int], most: int
) -> None:
    engine.vms = [vm(f"vm{number}", datastores=(f"ds{number % 2}",)) for number in range(8)]
    engine.gate = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(runner.run(job("nightly", **limits), "cli"))
        await until(lambda: len(engine.under_way) == most)
        engine.gate.set()
    assert engine.most_at_once == most
    assert len(engine.cleaned_up) == 8


async def test_a_history_that_cannot_be_written_does_not_end_the_other_vms(
    runner: Runner, engine: SmallEngine, catalog: Catalog
) -> None:
    engine.gate = asyncio.Event()
    task = asyncio.get_running_loop().create_task(runner.run(job(), "cli"))
    await until(lambda: engine.under_way)
    with catalog._engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE vms RENAME TO vms_elsewhere")
    engine.gate.set()
    await until(lambda: len(engine.cleaned_up) == 2)
    with pytest.raises(Exception, match="no such table"):
        await task


async def test_a_plan_touches_nothing(runner: Runner, engine: SmallEngine, catalog: Catalog, tmp_path: Path) -> None:
    plan = await runner.plan(job())
    assert [one.vm for one in plan.vms] == ["web01", "web02"]
    assert not engine.cleaned_up
    assert catalog.runs(limit=1) == []


async def test_runs_of_many_jobs_go_on_side_by_side(runner: Runner, engine: SmallEngine) -> None:
    engine.vms = [vm(f"{name}-{number}") for name in "abc" for number in range(3)]
    jobs = [job(name, include=(Rule(name=f"{name}-*"),)) for name in "abc"]
    runs: list[RunRow] = await asyncio.gather(*(runner.run(one, "cli") for one in jobs))
    assert [run.state for run in runs] == ["success"] * 3
    assert [len(run.vms) for run in runs] == [3, 3, 3]


# --- retention

KEEPS_THREE = RetentionPolicy(keep_last=3)
EXPIRED = Judgement(
    id=SessionId("e" * 32),
    vm_id=VmId("vc/web02"),
    vm_name="web02",
    time=datetime(2026, 1, 1, 22, tzinfo=UTC),
    keep=False,
    reasons=("beyond the last 3", "beyond daily 7"),
)


async def test_retention_is_applied_to_the_vms_that_were_backed_up(
    runner: Runner, engine: SmallEngine, catalog: Catalog
) -> None:
    engine.endings["web01"] = lambda it: report(it, problem=FAILURE)
    engine.expires = [EXPIRED]
    run = await runner.run(job(retention=KEEPS_THREE), "cli")
    assert engine.retained == [("nightly", frozenset({VmId("vc/web02")}))]
    assert run.state == "failed"
    (row,) = catalog.run(run.id).expired
    assert row == ExpiredRow("e" * 32, "web02", "vc/web02", "2026-01-01T22:00:00Z", "beyond the last 3; beyond daily 7")


async def test_a_job_without_retention_forgets_nothing(runner: Runner, engine: SmallEngine) -> None:
    run = await runner.run(job(), "cli")
    assert engine.retained == []
    assert (run.state, run.expired) == ("success", ())


async def test_retention_that_fails_is_a_warning_and_no_failure(runner: Runner, engine: SmallEngine) -> None:
    engine.keeps = PackCorrupt("marks/pin-1: damaged")
    run = await runner.run(job(retention=KEEPS_THREE), "cli")
    assert run.state == "warning"
    assert run.warnings == ("retention was not applied: marks/pin-1: damaged",)
    assert all(vm.problem is None for vm in run.vms)


async def test_what_expired_while_a_run_was_cancelled_stays_on_its_record(
    runner: Runner, engine: SmallEngine, catalog: Catalog
) -> None:
    engine.expires, engine.expiry_gate = [EXPIRED], asyncio.Event()
    task = asyncio.get_running_loop().create_task(runner.run(job(retention=KEEPS_THREE), "cli"))
    await until(lambda: engine.retained)
    task.cancel()
    asyncio.get_running_loop().call_later(0.05, engine.expiry_gate.set)
    with pytest.raises(asyncio.CancelledError):
        await task
    (run,) = catalog.runs(limit=1)
    assert (run.state, [row.point for row in run.expired]) == ("cancelled", ["e" * 32])
