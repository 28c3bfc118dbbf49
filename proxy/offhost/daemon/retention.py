"""Retention as the jobs say it.

Owns: from jobs to who governs which points of a repository, and applying that to what a job backed up. Does not own:
the rules (retention), the judging and forgetting (repository.expiry).
"""

from collections.abc import Callable, Collection, Iterable
from functools import partial

from offhost.ids import InstallationId, VmId
from offhost.jobs.spec import JobSpec
from offhost.repository.lifetime.expiry import ByJob, Judgement, Terms, expire, judge, strangers
from offhost.repository.repository import Repository
from offhost.repository.unlocked import UnlockedRepository
from offhost.repository.verification.suspects import suspects


def by_job(jobs: Iterable[JobSpec], repository: str, installation: InstallationId) -> ByJob:
    """Who governs the points of a repository: the jobs that back up into it."""
    terms = {job.name: Terms(job.retention, job.timezone) for job in jobs if job.repository == repository}
    return ByJob(installation, terms)


def expire_backed_up(repository: Repository, scheme: ByJob, vms: Collection[VmId]) -> list[Judgement]:
    """Apply a job's retention to VMs that exist; returns what was forgotten. Blocking.

    Raises: IntegrityError, BackendError.
    """
    repository.refresh()
    return expire(repository, judge(repository, scheme, vms=vms, damaged=partial(suspects, repository)))


def expire_deleted(
    repository: UnlockedRepository, scheme: ByJob, existing: Collection[VmId], is_deleted: Callable[[VmId], bool]
) -> list[Judgement]:
    """The same for VMs that do not exist any more, of which there may be points under `after_vm_deleted`."""
    gone = [vm for vm in strangers(repository, existing) if is_deleted(vm)]
    return expire(repository, judge(repository, scheme, vms=gone, is_deleted=is_deleted)) if gone else []
