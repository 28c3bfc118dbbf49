"""What a job file says is what the engine is told."""

from offhost.config import load
from offhost.daemon.specs import job_spec
from offhost.jobs.spec import Rule
from offhost.vsphere.values import QuiescePolicy
from support.config_files import JOB, Files


def test_every_key_of_a_job_arrives(files: Files) -> None:
    written = JOB.replace("mon-fri", "sat").replace('{ name: "db-*" }', "{ name: db }, { folder: /DC0/vm/Web/ }")
    files.job(
        "nightly.yaml",
        written
        + "mode: full\nquiesce: { policy: require, timeout: 1h }\ntransports: [https]\n"
        + "limits: { vms: 3, per_datastore: 2 }\n",
    )
    spec = job_spec(load(files.file).jobs[0])
    assert (spec.name, spec.vcenter, spec.repository, spec.mode) == ("nightly", "main", "main", "full")
    assert spec.include == (Rule(name="db"), Rule(folder="/DC0/vm/Web"))
    assert spec.exclude == ()
    assert spec.quiesce == QuiescePolicy("require", 60)
    assert spec.transports == ("https",)
    assert (spec.vms, spec.vms_per_datastore) == (3, 2)
    assert spec.timing is not None
    assert (spec.timing.cron.weekdays, spec.timing.timezone) == ((6,), "Europe/Zurich")


def test_a_job_without_a_schedule_waits_to_be_told(files: Files) -> None:
    files.job("nightly.yaml", "\n".join(line for line in JOB.splitlines() if "schedule" not in line))
    assert job_spec(load(files.file).jobs[0]).timing is None
