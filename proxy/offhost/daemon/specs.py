"""From the configuration's words to the values that the rooms below take."""

from offhost.config import Job, Retention
from offhost.config import Rule as WrittenRule
from offhost.jobs.spec import CopyTarget, JobSpec, Rule, Timing
from offhost.retention import RetentionPolicy
from offhost.vsphere.values import QuiescePolicy


def job_spec(job: Job) -> JobSpec:
    """A job file as the runner and the engine take it."""
    return JobSpec(
        name=job.job,
        vcenter=job.vcenter,
        repository=job.repository,
        include=_rules(job.select.include),
        exclude=_rules(job.select.exclude),
        mode=job.mode,
        quiesce=QuiescePolicy(job.quiesce.policy, job.quiesce.timeout),
        transports=job.transports,
        copy_to=tuple(CopyTarget(copy.repository, copy.within) for copy in job.copy_to),
        timing=Timing(job.schedule.cron, job.schedule.timezone) if job.schedule else None,
        retention=_policy(job.retention),
        vms=job.limits.vms,
        vms_per_datastore=job.limits.per_datastore,
    )


def _policy(written: Retention | None) -> RetentionPolicy:
    if written is None:
        return RetentionPolicy()
    return RetentionPolicy(
        keep_last=written.keep_last,
        hourly=written.hourly,
        daily=written.daily,
        weekly=written.weekly,
        monthly=written.monthly,
        yearly=written.yearly,
        within=written.within,
        after_vm_deleted=written.after_vm_deleted,
    )


def _rules(written: tuple[WrittenRule, ...]) -> tuple[Rule, ...]:
    return tuple(Rule(name=rule.name, folder=rule.folder) for rule in written)
