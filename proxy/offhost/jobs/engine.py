"""What the runner needs from whoever backs up VMs."""

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from offhost.backup.report import VmCopies, VmPlan, VmReport
from offhost.ids import RunId, VmId
from offhost.jobs.selection import Selection
from offhost.jobs.spec import JobSpec
from offhost.jobs.subject import Subject
from offhost.repository.lifetime.expiry import Judgement


class VmEngine(Protocol):
    """Selects, plans and backs up VMs. Safe for many VMs at once on one event loop."""

    async def select(self, job: JobSpec) -> Selection:
        """What the job means, now: VMs, a VM's folder, or hosts.

        Raises: OffhostError when the inventory cannot be read.
        """
        ...

    async def back_up(
        self, job: JobSpec, subject: Subject, run_id: RunId, *, on_cancelled: Callable[[VmReport], None]
    ) -> VmReport:
        """Back up one of them. Its failure is in the report, or raised; a cancellation is, after the clean-up.

        What there is to tell of a VM whose backup was cancelled, `on_cancelled` is told before: a point that was
        committed already, a snapshot that could not be removed.
        """
        ...

    async def expire(self, job: JobSpec, vms: Collection[VmId]) -> list[Judgement]:
        """Apply the job's retention to these VMs, and to VMs it once backed up that are deleted; what was forgotten.

        Raises: OffhostError; what was forgotten before stays so.
        """
        ...

    async def copy(self, job: JobSpec, report: VmReport, repository: str, run_id: RunId) -> VmCopies:
        """Copy the point that a backup has made to another repository, and those newer than the newest copy there.

        Points that fail are in the result. Raises: OffhostError when nothing could be tried.
        """
        ...

    async def plan(self, job: JobSpec, subjects: Sequence[Subject]) -> list[VmPlan]:
        """What `back_up` would do to each disk of these, in their order, touching nothing."""
        ...

    async def remove_leftovers(self) -> list[str]:
        """Remove what dead runs of this installation left in vSphere; says what was removed, a line each.

        Safe beside runs: what is on a VM that one works on is left to that run.
        """
        ...
