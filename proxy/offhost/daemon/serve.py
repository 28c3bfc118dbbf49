"""The daemon's life: start in order, serve, stop in order.

Start: be the only one, open the catalog, close the records of dead runs, answer REST, start jobs; what dead runs left
in vSphere is removed beside all that, and looked for every ten minutes. Stop (SIGTERM, Ctrl-C): start no more, cancel
what runs and wait for its clean-up, end. A second signal ends at once: what is left then, the next start removes.
"""

import asyncio
import logging
import os
import signal

from offhost import __version__
from offhost.api import Served, application, serving
from offhost.config import Configuration
from offhost.daemon.compose import Proxy, composed
from offhost.daemon.engine import EngineScope, vm_engine
from offhost.daemon.systemd import beating, notify
from offhost.jobs.dispatch import Dispatcher
from offhost.jobs.schedule import Schedule
from offhost.metrics import CONTENT_TYPE
from offhost.state import Claim, State

_log = logging.getLogger(__name__)


async def serve(configuration: Configuration, *, engine: EngineScope = vm_engine) -> None:
    """Run the daemon until it is told to stop.

    Raises: Conflict when one is running already or the port is taken, StateError.
    """
    main = asyncio.current_task()
    assert main is not None
    told = _stop_when_told(main)
    try:
        state = State.open(configuration.state)
        with state.claim_daemon() as claim, beating():
            async with composed(configuration, state, engine=engine) as proxy:
                await _serve(proxy, claim)
    except asyncio.CancelledError:
        if not told.is_set():
            raise
        main.uncancel()
        _log.info("stopped")


async def _serve(proxy: Proxy, claim: Claim) -> None:
    await proxy.close_records()
    try:
        await _work(proxy, claim)
    except ExceptionGroup as group:
        raise group.exceptions[0] from None  # runs keep their errors to themselves: it is the one of `_work` itself


async def _work(proxy: Proxy, claim: Claim) -> None:
    listen = proxy.configuration.listen
    async with asyncio.TaskGroup() as group:
        clearing_up = group.create_task(proxy.keep_clear(), name="removal of leftovers")
        dispatcher = Dispatcher(proxy.jobs, proxy.runner, group)
        async with serving(application(_served(proxy, dispatcher)), listen.address, listen.port) as url:
            schedule = Schedule(lambda job: dispatcher.start(job, "schedule"))
            for job in proxy.jobs.values():
                schedule.add(job)
            schedule.begin()
            try:
                claim.note(url)
                _log.info("offhost %s is ready: %d jobs, %s", __version__, len(proxy.jobs), url)
                notify("READY=1", f"STATUS={len(proxy.jobs)} jobs, {url}")
                await asyncio.Event().wait()  # until cancelled
            finally:
                notify("STOPPING=1", "STATUS=waiting for runs to clean up")
                schedule.end()
                clearing_up.cancel()
                await dispatcher.stop()


def _served(proxy: Proxy, dispatcher: Dispatcher) -> Served:
    return Served(
        dispatcher=dispatcher,
        catalog=proxy.catalog,
        metrics=proxy.metrics.exposition,
        metrics_content_type=CONTENT_TYPE,
        clock=proxy.clock,
        version=__version__,
        started=proxy.clock.now(),
    )


def _stop_when_told(main: "asyncio.Task[object]") -> asyncio.Event:
    """Cancel `main` at the first SIGTERM or SIGINT, end the process at the second."""
    told = asyncio.Event()

    def stop(number: signal.Signals) -> None:
        if told.is_set():
            _log.warning("told to stop again: ending at once; the next start removes what is left")
            os._exit(128 + number)
        _log.info("told to stop: runs are cancelled and clean up")
        told.set()
        main.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop, number)
    return told
