import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import pytest

from offhost.api import Served, application, serving
from offhost.catalog import Catalog
from offhost.clock import SystemClock
from offhost.config.cron import CronLine
from offhost.events import Events
from offhost.jobs.dispatch import Dispatcher
from offhost.jobs.runner import Runner
from offhost.jobs.slots import Slots
from offhost.jobs.spec import Timing
from offhost.state import State
from support.small_engine import SmallEngine, job


@pytest.fixture
def engine() -> SmallEngine:
    return SmallEngine()


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    opened = Catalog.open(tmp_path / "catalog.sqlite")
    yield opened
    opened.close()


@pytest.fixture
async def url(engine: SmallEngine, catalog: Catalog, tmp_path: Path) -> AsyncIterator[str]:
    """The API, listening on a free port, over two jobs and an engine without vSphere."""
    runner = Runner(
        engine=engine,
        catalog=catalog,
        state=State.open(tmp_path / "state"),
        events=Events(),
        clock=SystemClock(),
        vms=4,
        slots=Slots(),
    )
    nightly = job("nightly", timing=Timing(CronLine.parse("0 22 * * *"), "Europe/Zurich"))
    async with asyncio.TaskGroup() as group:
        dispatcher = Dispatcher({"nightly": nightly, "by-hand": job("by-hand")}, runner, group)
        served = Served(
            dispatcher=dispatcher,
            catalog=catalog,
            metrics=lambda: b"offhost_info 1\n",
            metrics_content_type="text/plain; version=0.0.4; charset=utf-8",
            clock=SystemClock(),
            version="0.1.0",
            started=datetime(2026, 1, 1, tzinfo=UTC),
        )
        async with serving(application(served), "127.0.0.1", 0) as base:
            yield base
        await dispatcher.stop()


@pytest.fixture
async def browser(url: str) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(url) as session:
        yield session
