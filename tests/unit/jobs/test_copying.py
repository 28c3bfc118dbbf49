"""What a job copies is on its run's record, and what cannot be copied harms no backup."""

import asyncio
from datetime import timedelta

import pytest

from offhost.backup.report import PointCopy, Problem, VmCopies, VmReport
from offhost.catalog import Catalog, CopiesRow, RunRow, VmRow
from offhost.clock import SystemClock
from offhost.errors import Unavailable
from offhost.events import Event, RunStarted
from offhost.jobs.runner import Runner
from offhost.jobs.spec import CopyTarget
from support.small_engine import SmallEngine, job
from support.waiting import until

COPYING = job(copy_to=(CopyTarget("offsite", within=timedelta(hours=24)),))
NOW = SystemClock().now()


def copied(report: VmReport) -> VmCopies:
    point = PointCopy(
        report.vm, report.vm_id, str(report.point), "2026-01-01T00:00:00Z", "copied", "c" * 32, 512, 256, 128
    )
    return VmCopies("offsite", (point,), NOW)


def failed(report: VmReport) -> VmCopies:
    problem = Problem("chunk_corrupt", "a chunk is damaged", None)
    point = PointCopy(report.vm, report.vm_id, str(report.point), "2026-01-01T00:00:00Z", "failed", problem=problem)
    return VmCopies("offsite", (point,), NOW - timedelta(hours=30))


def refused(_: VmReport) -> VmCopies:
    raise Unavailable("/mnt/offsite: does not answer")


def web01(run: RunRow) -> VmRow:
    (row,) = (row for row in run.vms if row.vm == "web01")
    return row


async def test_what_was_copied_is_on_the_record(runner: Runner, engine: SmallEngine) -> None:
    engine.copies["offsite"] = copied
    run = await runner.run(COPYING, "cli")
    assert run.state == "success"
    (row,) = web01(run).copies
    assert row == CopiesRow("offsite", ("c" * 32,), 512, 256, 128, row.newest)


async def test_a_copy_that_fails_is_a_warning_and_the_backup_stands(runner: Runner, engine: SmallEngine) -> None:
    engine.copies["offsite"] = refused
    run = await runner.run(COPYING, "cli")
    assert run.state == "warning"
    assert web01(run).point
    assert web01(run).problem is None
    assert web01(run).warnings == ("not copied to offsite: /mnt/offsite: does not answer",)


async def test_a_copy_older_than_its_objective_is_said(runner: Runner, engine: SmallEngine) -> None:
    engine.copies["offsite"] = failed
    run = await runner.run(COPYING, "cli")
    why, late = web01(run).warnings
    assert "not copied to offsite: a chunk is damaged" in why
    assert late.startswith("its newest point in offsite is of ")
    assert late.endswith(": older than the 1d that are wanted")


async def test_a_backup_that_failed_is_not_copied(runner: Runner, engine: SmallEngine) -> None:
    engine.refuses = Unavailable("no")
    await runner.run(COPYING, "cli")
    assert engine.copying == set()


async def test_copying_holds_no_slot_of_the_backups(runner: Runner, engine: SmallEngine) -> None:
    engine.copies["offsite"], engine.copy_gate = copied, asyncio.Event()
    running = asyncio.create_task(runner.run(job(copy_to=COPYING.copy_to, vms=1), "cli"))
    await until(lambda: len(engine.copying) == 2)
    engine.copy_gate.set()
    assert (await running).state == "success"


async def test_who_is_cancelled_while_copying_keeps_the_point_on_the_record(
    runner: Runner, engine: SmallEngine, catalog: Catalog, told: list[Event]
) -> None:
    engine.copies["offsite"], engine.copy_gate = copied, asyncio.Event()
    running = asyncio.create_task(runner.run(COPYING, "cli"))
    await until(lambda: len(engine.copying) == 2)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert isinstance(told[0], RunStarted)
    run = catalog.run(told[0].run_id)
    assert run.state == "cancelled"
    assert all(row.point and row.problem is None for row in run.vms)
