"""Everything, built once from the configuration: for the daemon, and for commands that work without one."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from offhost import __version__
from offhost.aio import in_thread
from offhost.catalog import Catalog
from offhost.clock import Clock, SystemClock
from offhost.config import Configuration
from offhost.daemon.engine import EngineScope, vm_engine
from offhost.daemon.local import end_interrupted
from offhost.daemon.specs import job_spec
from offhost.errors import OffhostError
from offhost.events import Events
from offhost.jobs.engine import VmEngine
from offhost.jobs.runner import Runner
from offhost.jobs.slots import Slots
from offhost.jobs.spec import JobSpec
from offhost.metrics import Metrics
from offhost.state import State

_log = logging.getLogger(__name__)

_CLEAR_EVERY_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """The whole of offhost on this machine, ready to work."""

    configuration: Configuration
    state: State
    catalog: Catalog
    events: Events
    metrics: Metrics
    clock: Clock
    engine: VmEngine
    runner: Runner
    jobs: Mapping[str, JobSpec]

    async def close_records(self) -> None:
        """Close the records of dead runs.

        Raises: StateError.
        """
        for run_id in await in_thread(end_interrupted, self.state, self.catalog, self.clock):
            _log.warning("run %s was interrupted", run_id)

    async def keep_clear(self, every_s: float = _CLEAR_EVERY_S) -> None:
        """Remove leftovers now and from time to time; ends by cancellation.

        A run of this very process gives up when vCenter is away for longer than its patience: the snapshot that stays
        would grow, and the VM that was shut down would stay off, until the job's next run.
        """
        while True:
            await self.remove_leftovers()
            await asyncio.sleep(every_s)

    async def remove_leftovers(self) -> None:
        """Remove what dead runs left in vSphere: as slow as that is to answer, and safe beside runs.

        What cannot be removed is a warning in the log.
        """
        try:
            for line in await self.engine.remove_leftovers():
                _log.info("leftover: %s", line)
        except OffhostError as error:
            _log.warning("leftovers of dead runs may remain: %s", error)
        except Exception:  # noqa: BLE001 - what is left elsewhere must not end the daemon; the log has it
            _log.exception("the removal of leftovers broke off")


@asynccontextmanager
async def composed(
    configuration: Configuration, state: State, *, engine: EngineScope = vm_engine
) -> AsyncIterator[Proxy]:
    """Build everything; leaving the scope closes the catalog and the engine's sessions.

    Raises: StateError; what the engine's construction raises.
    """
    clock, events, metrics = SystemClock(), Events(), Metrics(__version__)
    events.subscribe(metrics.listen)
    catalog = await in_thread(Catalog.open, state.catalog)
    try:
        async with engine(configuration, state, events, clock) as built:
            runner = Runner(
                engine=built,
                catalog=catalog,
                state=state,
                events=events,
                clock=clock,
                vms=configuration.limits.vms,
                slots=Slots(),
            )
            yield Proxy(
                configuration=configuration,
                state=state,
                catalog=catalog,
                events=events,
                metrics=metrics,
                clock=clock,
                engine=built,
                runner=runner,
                jobs={job.job: job_spec(job) for job in configuration.jobs},
            )
    finally:
        catalog.close()
