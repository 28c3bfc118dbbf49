"""A daemon process over the small engine: `python small_daemon.py proxy.yaml [hold] [mute]`.

With `hold`, backups wait until they are cancelled; clean-up and leftovers are told on standard output. With `mute`, the
vCenter never answers whoever looks for leftovers.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from offhost.backup.report import VmReport
from offhost.clock import Clock
from offhost.config import Configuration, load
from offhost.daemon.logs import log_to_stderr
from offhost.daemon.serve import serve
from offhost.errors import OffhostError
from offhost.events import Events
from offhost.ids import RunId
from offhost.jobs.engine import VmEngine
from offhost.jobs.spec import JobSpec
from offhost.jobs.subject import Subject
from offhost.state import State
from support.small_engine import SmallEngine


class TellingEngine(SmallEngine):
    async def back_up(
        self, job: JobSpec, subject: Subject, run_id: RunId, *, on_cancelled: Callable[[VmReport], None]
    ) -> VmReport:
        print(f"began {subject.name}", flush=True)
        try:
            return await super().back_up(job, subject, run_id, on_cancelled=on_cancelled)
        except asyncio.CancelledError:
            await asyncio.sleep(0.5)
            print(f"cleaned up {subject.name}", flush=True)
            raise

    async def remove_leftovers(self) -> list[str]:
        if "mute" in sys.argv:
            await asyncio.Event().wait()
        return await super().remove_leftovers()


@asynccontextmanager
async def small_engine(_c: Configuration, _s: State, _e: Events, _clock: Clock) -> AsyncIterator[VmEngine]:
    engine = TellingEngine(leftovers=["snapshot of a dead run on web01"])
    if "hold" in sys.argv:
        engine.gate = asyncio.Event()
    try:
        yield engine
    finally:
        print("engine closed", flush=True)


if __name__ == "__main__":
    log_to_stderr()
    try:
        asyncio.run(serve(load(Path(sys.argv[1])), engine=small_engine))
    except OffhostError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
