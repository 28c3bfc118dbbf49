"""The engine is for many jobs at once."""

import asyncio
import threading
from pathlib import Path

import pytest

from offhost.aio import in_thread
from offhost.clock import SystemClock
from offhost.config import load
from offhost.daemon import engine as engine_module
from offhost.daemon.engine import vm_engine
from offhost.events import Events
from offhost.jobs.spec import FolderSpec
from offhost.state import State
from support.config_files import Files
from support.small_engine import job

MANY = 80


async def test_folders_on_a_mount_that_hangs_take_no_thread_from_the_others(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    never = threading.Event()
    monkeypatch.setattr(engine_module, "vm_folder", lambda _: never.wait())
    async with vm_engine(load(files.file), State.open(tmp_path / "state"), Events(), SystemClock()) as engine:
        of_folder = job(folder=FolderSpec(tmp_path))
        looking = [asyncio.create_task(engine.select(of_folder)) for _ in range(MANY)]
        other = asyncio.create_task(in_thread(lambda: "removed a snapshot"))
        try:
            await asyncio.wait([other], timeout=5)
            assert other.done()
        finally:
            never.set()
            await asyncio.wait([*looking, other])
