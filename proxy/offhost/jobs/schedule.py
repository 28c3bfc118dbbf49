"""When jobs are due: the only home of APScheduler.

Owns: the next times and their arrival on the event loop. Does not own: what a due job does (dispatch).
"""

import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.combining import OrTrigger
from apscheduler.triggers.cron import CronTrigger

from offhost.errors import OffhostError
from offhost.jobs.spec import JobSpec, Timing

_log = logging.getLogger(__name__)

GRACE_S = 300
"""A job that was due while the machine slept or the loop was busy still starts this much later, once; after that it
waits for its next time."""


def next_time(timing: Timing, after: datetime) -> datetime | None:
    """The first time after `after` (aware) at which the job is due."""
    found: datetime | None = _trigger(timing).get_next_fire_time(None, after)
    return found


class Schedule:
    """Calls `start(job name)` whenever a job is due. A start that is refused, because the job's last run is still
    under way, is logged and left out. Lives on one event loop.
    """

    def __init__(self, start: Callable[[str], Awaitable[object]]) -> None:
        self._start = start
        self._scheduler = AsyncIOScheduler(timezone=UTC)

    def add(self, job: JobSpec) -> None:
        """Have a job run at its times; one without any is left out."""
        if job.timing is not None:
            self._scheduler.add_job(
                self._due,
                _trigger(job.timing),
                args=[job.name],
                id=job.name,
                coalesce=True,
                misfire_grace_time=GRACE_S,
            )

    def begin(self) -> None:
        """From now on, jobs are started."""
        self._scheduler.start()

    def end(self) -> None:
        """From now on, none is."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)

    async def _due(self, name: str) -> None:
        try:
            await self._start(name)
        except OffhostError as error:
            _log.warning("job %s was due and was not started: %s", name, error)


def _trigger(timing: Timing) -> Any:
    """The cron line in APScheduler's terms: there, Monday is 0, and a day must match by month and by week."""
    line = timing.cron
    clock = {
        "minute": _listed(line.minutes),
        "hour": _listed(line.hours),
        "month": _listed(line.months),
        "timezone": ZoneInfo(timing.timezone),
    }
    by_week = {"day_of_week": _listed(tuple((day - 1) % 7 for day in line.weekdays))} if line.weekdays else {}
    by_month = {"day": _listed(line.days)} if line.days else {}
    if by_week and by_month:
        return OrTrigger([CronTrigger(**clock, **by_month), CronTrigger(**clock, **by_week)])
    return CronTrigger(**clock, **by_month, **by_week)


def _listed(numbers: tuple[int, ...]) -> str:
    return ",".join(map(str, sorted(numbers)))
