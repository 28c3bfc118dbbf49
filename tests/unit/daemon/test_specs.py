"""What a job file says is what the engine is told."""

from datetime import timedelta

from offhost.backup.audit import AuditPolicy
from offhost.config import load
from offhost.daemon.specs import job_spec
from offhost.jobs.spec import Rule
from offhost.retention import RetentionPolicy
from offhost.vsphere.values import QuiescePolicy, VssOptions
from support.config_files import JOB, Files


def test_every_key_of_a_job_arrives(files: Files) -> None:
    written = JOB.replace("mon-fri", "sat").replace('{ name: "db-*" }', "{ name: db }, { folder: /DC0/vm/Web/ }")
    files.job(
        "nightly.yaml",
        written
        + "mode: full\nquiesce: { policy: require, timeout: 1h }\ntransports: [https]\n"
        + "limits: { vms: 3, per_datastore: 2 }\n"
        + "retention: { keep_last: 1, hourly: 2, daily: 3, weekly: 4, monthly: 5, yearly: 6, within: 36h, "
        + "after_vm_deleted: 12w }\n",
    )
    spec = job_spec(load(files.file).jobs[0])
    assert (spec.name, spec.vcenter, spec.repository, spec.mode) == ("nightly", "main", "main", "full")
    assert spec.include == (Rule(name="db"), Rule(folder="/DC0/vm/Web"))
    assert spec.exclude == ()
    assert spec.quiesce == QuiescePolicy("require", 60)
    assert spec.transports == ("https",)
    assert (spec.vms, spec.vms_per_datastore) == (3, 2)
    assert spec.retention == RetentionPolicy(
        keep_last=1,
        hourly=2,
        daily=3,
        weekly=4,
        monthly=5,
        yearly=6,
        within=timedelta(hours=36),
        after_vm_deleted=timedelta(weeks=12),
    )
    assert str(spec.timezone) == "Europe/Zurich"
    assert spec.timing is not None
    assert (spec.timing.cron.weekdays, spec.timing.timezone) == ((6,), "Europe/Zurich")


def test_how_disks_are_read_and_guests_quiesced_arrives(files: Files) -> None:
    vss = "{ backup_type: full, context: backup, bootable_system_state: true, partial_file_support: true }"
    files.job(
        "nightly.yaml",
        JOB
        + "mode: differential\nfull: { every: 4w }\naudit: { every: 7d, read: all }\n"
        + f"quiesce: {{ vss: {vss} }}\n",
    )
    spec = job_spec(load(files.file).jobs[0])
    assert (spec.mode, spec.full_every) == ("differential", timedelta(weeks=4))
    assert spec.audit == AuditPolicy(timedelta(days=7), "all")
    assert spec.quiesce.vss == VssOptions("full", "backup", bootable_system_state=True, partial_file_support=True)


def test_change_tracking_is_audited_every_month_unless_a_job_says_otherwise(files: Files) -> None:
    files.job("nightly.yaml", JOB)
    assert job_spec(load(files.file).jobs[0]).audit == AuditPolicy(timedelta(days=30), "sample")


def test_a_job_without_a_schedule_waits_to_be_told(files: Files) -> None:
    files.job("nightly.yaml", "\n".join(line for line in JOB.splitlines() if "schedule" not in line))
    spec = job_spec(load(files.file).jobs[0])
    assert spec.timing is None
    assert spec.retention.keeps_everything
    assert str(spec.timezone) == "UTC"
