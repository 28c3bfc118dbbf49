"""The copies that a job makes of what it has backed up.

Owns: that a copy which fails is a warning and harms no backup, how many are made at once, the objective. Does not own:
the copying (the engine).
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime

from offhost.backup.report import VmCopies, VmReport
from offhost.clock import Clock, rfc3339
from offhost.ids import RunId
from offhost.jobs.engine import VmEngine
from offhost.jobs.record import problem_of
from offhost.jobs.slots import Slots
from offhost.jobs.spec import CopyTarget, JobSpec
from offhost.retention import written_age

_log = logging.getLogger(__name__)

_AT_ONCE = 2
"""VMs being copied into one repository: while one waits for its last bytes to be durable, another is read."""


@dataclass(frozen=True, slots=True)
class Copying:
    """Makes a job's copies. Holds slots of the repository copied to, and none of vSphere's."""

    engine: VmEngine
    slots: Slots
    clock: Clock

    async def copied(
        self, job: JobSpec, report: VmReport, run_id: RunId, told: Callable[[VmReport], object]
    ) -> VmReport:
        """Copy what a backup has made, and earlier points that are due; the report says how that went.

        `told` is told the report as it grows, for whoever is cancelled meanwhile.
        """
        told(report)
        for target in job.copy_to:
            copies = await self._copies(job, report, target, run_id)
            warnings = tuple(_warnings(copies, target, self.clock.now()))
            report = replace(report, copies=(*report.copies, copies), warnings=report.warnings + warnings)
            told(report)
        return report

    async def _copies(self, job: JobSpec, report: VmReport, target: CopyTarget, run_id: RunId) -> VmCopies:
        try:
            async with self.slots.held({("copy", target.repository): _AT_ONCE}):
                return await self.engine.copy(job, report, target.repository, run_id)
        except Exception as error:  # noqa: BLE001 - whatever it is, the backup is what it is
            _log.exception("the points of %s could not be copied to %s", report.vm, target.repository)
            return VmCopies(target.repository, problem=problem_of(error))


def _warnings(copies: VmCopies, target: CopyTarget, now: datetime) -> Iterator[str]:
    if copies.problem:
        yield f"not copied to {target.repository}: {copies.problem.message}"
    for point in copies.points:
        if point.problem:
            yield f"point {point.point[:12]} of {point.time} not copied to {target.repository}: {point.problem.message}"
    if target.within and copies.newest and now - copies.newest > target.within:
        yield (
            f"its newest point in {target.repository} is of {rfc3339(copies.newest)}: "
            f"older than the {written_age(target.within)} that are wanted"
        )
