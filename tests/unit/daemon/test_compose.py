"""What the daemon does beside its jobs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from offhost.config import load
from offhost.daemon.compose import composed
from offhost.jobs.engine import VmEngine
from offhost.state import State
from support.config_files import Files
from support.small_engine import SmallEngine
from support.waiting import until


async def test_what_runs_leave_while_the_daemon_lives_is_removed_without_a_restart(
    files: Files, tmp_path: Path
) -> None:
    engine = SmallEngine(leftovers=["of a run before the start"])

    @asynccontextmanager
    async def small_engine(*_: object) -> AsyncIterator[VmEngine]:
        yield engine

    async with composed(load(files.file), State.open(tmp_path / "state"), engine=small_engine) as proxy:
        clearing = asyncio.create_task(proxy.keep_clear(every_s=0.01))
        await until(lambda: not engine.leftovers)
        engine.leftovers.append("of a run that gave up")
        await until(lambda: not engine.leftovers)
        clearing.cancel()
        await asyncio.wait([clearing])
