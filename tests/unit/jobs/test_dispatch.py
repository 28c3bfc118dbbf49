"""Runs as tasks of the daemon."""

import asyncio

import pytest

from offhost.catalog import Catalog
from offhost.errors import Conflict, NotFound
from offhost.ids import RunId
from offhost.jobs.dispatch import Dispatcher
from offhost.jobs.runner import Runner
from support.small_engine import SmallEngine, job
from support.waiting import until


async def test_a_started_run_is_on_record_at_once_and_goes_on(runner: Runner, catalog: Catalog) -> None:
    async with asyncio.TaskGroup() as group:
        run_id = await Dispatcher({"nightly": job()}, runner, group).start("nightly", "rest")
        assert catalog.run(run_id).trigger == "rest"
    assert catalog.run(run_id).state == "success"


async def test_an_unknown_job_is_refused_with_those_there_are(runner: Runner) -> None:
    async with asyncio.TaskGroup() as group:
        with pytest.raises(NotFound) as caught:
            await Dispatcher({"nightly": job()}, runner, group).start("weekly", "rest")
    assert caught.value.hint == "there are: nightly"


async def test_one_run_is_cancelled_by_its_id(runner: Runner, engine: SmallEngine, catalog: Catalog) -> None:
    engine.gate = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        dispatcher = Dispatcher({"nightly": job()}, runner, group)
        run_id = await dispatcher.start("nightly", "rest")
        await until(lambda: engine.under_way)
        dispatcher.cancel(run_id)
    assert catalog.run(run_id).state == "cancelled"
    with pytest.raises(NotFound):
        dispatcher.cancel(RunId(run_id))


async def test_stopping_cancels_what_is_under_way_waits_for_its_clean_up_and_starts_nothing_more(
    runner: Runner, engine: SmallEngine, catalog: Catalog
) -> None:
    engine.gate = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        dispatcher = Dispatcher({"nightly": job()}, runner, group)
        run_id = await dispatcher.start("nightly", "rest")
        await dispatcher.stop()
        assert catalog.run(run_id).state == "cancelled"
        with pytest.raises(Conflict, match="stopping"):
            await dispatcher.start("nightly", "rest")
