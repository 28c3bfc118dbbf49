"""Jobs by name, started as tasks of the daemon and stopped with it.

Owns: the tasks of the runs under way. Does not own: what a run does (runner).
"""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

from offhost.errors import Conflict, NotFound
from offhost.ids import RunId
from offhost.jobs.runner import BegunRun, Runner
from offhost.jobs.spec import JobSpec, Trigger

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Dispatcher:
    """Starts runs in `group`; a run's failure never reaches the group. Lives on one event loop."""

    jobs: Mapping[str, JobSpec]
    runner: Runner
    group: asyncio.TaskGroup
    _under_way: dict[RunId, tuple[str, "asyncio.Task[None]"]] = field(default_factory=dict)
    """Each run's job and task."""
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)

    def job(self, name: str) -> JobSpec:
        """The job of that name.

        Raises: NotFound.
        """
        if name not in self.jobs:
            raise NotFound(f"there is no job `{name}`", hint=f"there are: {', '.join(sorted(self.jobs)) or 'none'}")
        return self.jobs[name]

    async def start(self, name: str, trigger: Trigger) -> RunId:
        """Begin a run of a job and return while it goes on; its record exists by then.

        Raises: NotFound, Conflict when it is running already or the daemon is stopping, StateError.
        """
        job = self.job(name)
        if self._stopping.is_set():
            raise Conflict("the daemon is stopping", hint="try again when it has started anew")
        run = await self.runner.begin(job, trigger)
        task = self.group.create_task(self._execute(run), name=f"run {run.id} of {name}")
        self._under_way[run.id] = (name, task)
        task.add_done_callback(lambda _: self._under_way.pop(run.id, None))
        if self._stopping.is_set():
            await _let_begin()
            task.cancel()
        return run.id

    def under_way(self) -> dict[RunId, str]:
        """The runs that this daemon is executing, with their jobs' names."""
        return {run_id: job for run_id, (job, _) in self._under_way.items()}

    def cancel(self, run_id: RunId) -> None:
        """Have a run end at its next safe point, its snapshots removed.

        Raises: NotFound when this daemon is not executing it.
        """
        if run_id not in self._under_way:
            raise NotFound(f"run {run_id} is not under way", hint="it may have ended: `offhost runs list`")
        self._under_way[run_id][1].cancel()

    async def stop(self) -> None:
        """Start nothing more, cancel what is under way, and wait until all of it has cleaned up."""
        self._stopping.set()
        await _let_begin()
        tasks = [task for _, task in self._under_way.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _execute(self, run: BegunRun) -> None:
        try:
            ended = await self.runner.execute(run)
        except Exception:  # noqa: BLE001 - one run must not end the daemon; the log has it
            _log.exception("run %s of job %s broke off", run.id, run.job.name)
        else:
            _log.info("run %s of job %s ended: %s", run.id, run.job.name, ended.state)


async def _let_begin() -> None:
    """Let new tasks take their first step: cancelled before it, a run would leave its record open."""
    await asyncio.sleep(0)
