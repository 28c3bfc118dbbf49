"""From the configuration's words to the values that the rooms below take."""

from offhost.backup.audit import AuditPolicy
from offhost.config import Directory, Job, Quiesce, Retention
from offhost.config import Rule as WrittenRule
from offhost.jobs.spec import CopyTarget, FolderSpec, JobSpec, Rule, SwitchingOff, Timing
from offhost.retention import RetentionPolicy
from offhost.vsphere.values import QuiescePolicy, VssOptions


def job_spec(job: Job) -> JobSpec:
    """A job file as the runner and the engine take it."""
    return JobSpec(
        name=job.job,
        vcenter=job.vcenter or "",
        repository=job.repository,
        include=_rules(job.select.include) if job.select else (),
        exclude=_rules(job.select.exclude) if job.select else (),
        templates=job.select.templates if job.select else "include",
        kind=job.kind,
        folder=_folder(job.directory) if job.directory else None,
        mode=job.mode,
        full_every=job.full.every if job.full else None,
        audit=AuditPolicy(job.audit.every, job.audit.read),
        quiesce=_quiesce(job.quiesce),
        transports=job.transports,
        copy_to=tuple(CopyTarget(copy.repository, copy.within) for copy in job.copy_to),
        timing=Timing(job.schedule.cron, job.schedule.timezone) if job.schedule else None,
        retention=_policy(job.retention),
        vms=job.limits.vms,
        vms_per_datastore=job.limits.per_datastore,
        consolidate=job.consolidate,
        vms_per_host=job.limits.per_host,
        read_bytes_per_s=job.limits.read_rate,
        datastore_latency_ms=job.limits.datastore_latency,
    )


def _folder(written: Directory) -> FolderSpec:
    off = SwitchingOff(written.shutdown_timeout, written.force_off) if written.consistency == "power_off" else None
    return FolderSpec(written.path, off)


def _quiesce(written: Quiesce) -> QuiescePolicy:
    vss = VssOptions(
        backup_type=written.vss.backup_type,
        context=written.vss.context,
        bootable_system_state=written.vss.bootable_system_state,
        partial_file_support=written.vss.partial_file_support,
    )
    return QuiescePolicy(written.policy, written.timeout, vss)


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
    return tuple(Rule(**rule.model_dump()) for rule in written)
