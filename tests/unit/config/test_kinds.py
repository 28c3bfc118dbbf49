"""Each kind of job has its own keys; what a kind would not use is refused, so that nobody believes it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from offhost.config import load
from offhost.daemon.specs import job_spec
from offhost.jobs.spec import FolderSpec, SwitchingOff
from support.config_files import Files

Refusal = Callable[[], list[tuple[str, str | None]]]

FOLDER = "job: web\nkind: directory\nrepository: main\n"
HOSTS = "job: esx\nkind: host\nrepository: main\nvcenter: main\n"
AS_IS = "directory: { path: /mnt/web }\n"
OFF = "directory: { path: /mnt/web, consistency: power_off }\n"
EVERY = 'select: { include: [ { name: "*" } ] }\n'


def test_a_folder_is_taken_as_it_is_without_any_vcenter(files: Files) -> None:
    files.job("nightly.yaml", FOLDER + AS_IS)
    spec = job_spec(load(files.file).jobs[0])
    assert (spec.kind, spec.vcenter, spec.include) == ("directory", "", ())
    assert spec.folder == FolderSpec(Path("/mnt/web"))


def test_a_guest_that_does_not_shut_down_is_not_switched_off_unless_the_job_says_so(files: Files) -> None:
    files.job("nightly.yaml", f"{FOLDER}vcenter: main\n{OFF}")
    assert job_spec(load(files.file).jobs[0]).folder == FolderSpec(Path("/mnt/web"), SwitchingOff(10, force=False))
    forced = OFF.replace(" }", ", shutdown_timeout: 1h, force_off: true }")
    files.job("nightly.yaml", f"{FOLDER}vcenter: main\n{forced}")
    assert job_spec(load(files.file).jobs[0]).folder == FolderSpec(Path("/mnt/web"), SwitchingOff(60, force=True))


def test_hosts_are_selected_by_name(files: Files) -> None:
    files.job("nightly.yaml", HOSTS + EVERY)
    spec = job_spec(load(files.file).jobs[0])
    assert (spec.kind, spec.vcenter, [rule.name for rule in spec.include]) == ("host", "main", ["*"])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (FOLDER, "kind: directory needs `directory`"),
        (FOLDER + AS_IS + EVERY, "selects nothing"),
        (FOLDER + OFF, "consistency: power_off needs `vcenter`"),
        (FOLDER + AS_IS + "vcenter: main\n", "consistency: as_is asks no vCenter"),
        (FOLDER + AS_IS + "mode: full\n", "`mode` is for kind: image"),
        (FOLDER + AS_IS + "audit: { every: 30d }\n", "`audit` is for kind: image"),
        (FOLDER + AS_IS + "limits: { datastore_latency: 30ms }\n", "`limits.datastore_latency` is for kind: image"),
        (FOLDER + AS_IS + "retention: { after_vm_deleted: 90d }\n", "`retention.after_vm_deleted` is for kind: image"),
        (FOLDER + "directory: { path: web }\n", "not an absolute path"),
        (FOLDER + "directory: { path: /web, force_off: maybe }\n", "directory.force_off"),
        (FOLDER + "vcenter: other\n" + OFF, "`other` is not one of proxy.yaml's vcenters"),
        (HOSTS, "kind: host needs `vcenter` and `select`"),
        (HOSTS + "select: { include: [ { folder: /DC0 } ] }\n", "hosts are selected by name"),
        (HOSTS + EVERY + AS_IS, "`directory` is for kind: directory"),
        (HOSTS + EVERY + "limits: { read_rate: 1MiB/s }\n", "`limits.read_rate` is for kind: image"),
        ("job: vms\nrepository: main\n", "kind: image needs `vcenter` and `select`"),
    ],
)
def test_what_makes_no_sense_for_a_kind_is_refused(files: Files, refusal: Refusal, text: str, says: str) -> None:
    files.job("nightly.yaml", text)
    ((message, hint),) = refusal()
    assert says in message
    assert hint
