"""`jobs plan`: what would happen and why, VM by VM and disk by disk, with nothing touched."""

import contextlib
import hashlib
import json
import resource
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyVmomi import vim

from offhost.ids import InstallationId, RunId
from offhost.vsphere.marker import annotation
from support.pyvmomi_client import PlainClient
from support.site import BackedUp, Said, Site
from support.tagging import tag
from support.vcenter import DiskSpec, Rule, SimulatedVCenter

CHANGES_NOTHING = {
    "RetrieveServiceContent",
    "Login",
    "Logout",
    "CreateContainerView",  # of this session alone, and gone with it
    "DestroyView",
    "RetrievePropertiesEx",
    "ContinueRetrievePropertiesEx",
}
_LISTS = "~action=list-"
MOST_CALLS = 30
"""For a thousand VMs: eleven batches of devices, two listings, log-in and log-out, SOAP and REST, and the tags."""


def select(site: Site, selection: str) -> None:
    """Let the job select so."""
    job = site.folder / "jobs.d" / "nightly.yaml"
    lines = [
        line if not line.startswith("select:") else f"select: {selection}" for line in job.read_text().splitlines()
    ]
    job.write_text("\n".join(lines) + "\n")


def planned(site: Site, *, code: int = 0) -> dict[str, Any]:
    """The plan, as programs get it."""
    said = site.offhost("jobs", "plan", "nightly", "--json")
    assert said.code == code, said
    plan: dict[str, Any] = json.loads(said.out)
    return plan


def the_disk(plan: dict[str, Any]) -> dict[str, Any]:
    """The one disk of the one VM."""
    ((disk,),) = [vm["disks"] for vm in plan["vms"]]
    return dict(disk)


def contents(folder: Path) -> dict[str, str]:
    """Every file under a folder with its time and what it holds."""
    return {
        str(file.relative_to(folder)): f"{file.stat().st_mtime_ns} {hashlib.sha256(file.read_bytes()).hexdigest()}"
        for file in folder.rglob("*")
        if file.is_file()
    }


@pytest.fixture
def client(shared_vcenter: SimulatedVCenter) -> Iterator[PlainClient]:
    """Somebody else who works on the inventory."""
    with PlainClient(shared_vcenter) as client:
        yield client


def test_a_plan_touches_nothing_in_vsphere_nor_in_the_repository(backed_up: BackedUp) -> None:
    site = backed_up.site
    before = contents(site.repository)
    site.vcenter.calls(reset=True)
    assert site.offhost("jobs", "plan", "nightly").code == 0
    calls = site.vcenter.calls()
    assert set(calls.methods) <= CHANGES_NOTHING
    assert [call for call in calls.rest if not (call.startswith("GET ") or "/session" in call or _LISTS in call)] == []
    assert calls.folder_bytes_received == 0
    assert contents(site.repository) == before


def test_the_first_backup_is_full_and_the_next_incremental_as_planned(site: Site) -> None:
    disk = the_disk(planned(site))
    assert (disk["mode"], disk["reason"], disk["transport"]) == ("full", "the first backup of this disk", "datastore")
    assert disk["about_bytes"] == site.disk_bytes
    assert site.run_job().code == 0
    disk = the_disk(planned(site))
    assert (disk["mode"], disk["reason"], disk["about_bytes"]) == ("incremental", None, None)
    site.write(0, b"x" * 65536)
    assert site.run_job().code == 0
    assert 0 < the_disk(planned(site))["about_bytes"] < site.disk_bytes


def test_a_disk_that_nothing_can_read_is_refused_with_every_reason_and_the_mend(site: Site) -> None:
    proxy = site.folder / "proxy.yaml"
    kept = [line for line in proxy.read_text().splitlines() if "vcenter: main, name" not in line]
    proxy.write_text("\n".join(kept).replace("datastores:\n", ""))
    plan = planned(site, code=1)
    disk = the_disk(plan)
    assert (disk["mode"], disk["transport"]) == ("refused", None)
    assert "mount the datastore" in disk["reason"]
    assert [line.partition(":")[0] for line in disk["refused"]] == ["datastore", "https"]
    assert "no VM is backed up in part" in plan["vms"][0]["problem"]["message"]


def test_a_datastore_that_is_too_full_keeps_its_vms_back(site: Site) -> None:
    site.vcenter.set_free_space("DS1", free_bytes=1 << 30, capacity_bytes=100 << 30)
    problem = planned(site, code=1)["vms"][0]["problem"]
    site.vcenter.set_free_space("DS1", free_bytes=90 << 30, capacity_bytes=100 << 30)
    assert "DS1 has 1.0% free" in problem["message"]


def test_a_point_that_was_given_up_is_no_base(backed_up: BackedUp) -> None:
    site = backed_up.site
    assert the_disk(planned(site))["mode"] == "incremental"
    (point,) = json.loads(site.offhost("--repo", "main", "points", "list", "--json").out)
    assert site.offhost("--repo", "main", "points", "forget", point["id"]).code == 0
    assert the_disk(planned(site))["reason"] == "the first backup of this disk"


def test_what_is_left_out_is_named_with_the_reason(site: Site, client: PlainClient) -> None:
    folder = f"of-{site.name}"
    vcenter = site.vcenter
    for name in ("kept", "a-scratch"):
        vcenter.create_vm(f"{site.name}-{name}", [DiskSpec(1 << 20)], folder=folder)
    template = vcenter.create_vm(f"{site.name}-golden", [DiskSpec(1 << 20)], folder=folder, powered_on=False)
    client.vm(template).MarkAsTemplate()
    made = vcenter.create_vm(f"{site.name}-made", [DiskSpec(1 << 20)], folder=folder)
    mark = annotation("verification", InstallationId("a" * 32), RunId("b" * 32))
    client.wait(client.vm(made).Reconfigure(vim.vm.ConfigSpec(annotation=mark)))
    select(
        site,
        f'{{ include: [ {{ folder: /DC0/vm/{folder} }} ], exclude: [ {{ name: "*-scratch" }} ], templates: exclude }}',
    )
    plan = planned(site)
    assert [vm["vm"] for vm in plan["vms"]] == [f"{site.name}-kept"]
    assert {out["vm"].rpartition("-")[2]: out["reason"] for out in plan["left_out"]} == {
        "scratch": "`exclude` names it, name: *-scratch",
        "golden": "it is a template, and the job leaves templates out",
        "made": "offhost made it itself: verification",
    }


def test_tags_choose_vms_and_opt_them_out(site: Site) -> None:
    vcenter = site.vcenter
    tagged = {name: vcenter.create_vm(f"{site.name}-{name}", [DiskSpec(1 << 20)]) for name in ("gold", "never")}
    tag(vcenter, tagged["gold"], f"backup:of-{site.name}")
    tag(vcenter, tagged["never"], f"backup:of-{site.name}")
    tag(vcenter, tagged["never"], "offhost:exclude")
    select(site, f'{{ include: [ {{ tag: "backup:of-{site.name}" }} ] }}')
    plan = planned(site)
    assert [vm["vm"] for vm in plan["vms"]] == [f"{site.name}-gold"]
    assert [(out["vm"], out["reason"]) for out in plan["left_out"]] == [
        (f"/DC0/vm/{site.name}-never", "its tag offhost:exclude opts out of every job")
    ]


def test_a_run_fails_when_nobody_can_say_who_opts_out(site: Site) -> None:
    site.vcenter.rules([Rule("rest:POST", mode="http503")])
    assert site.run_job().code == 1
    error, hint = site.offhost("jobs", "plan", "nightly").told_once()
    assert "offhost:exclude" in error
    assert "opt_out_tag: none" in hint
    with (site.folder / "proxy.yaml").open("a") as proxy:
        proxy.write("opt_out_tag: none\n")
    assert site.run_job().code == 3  # the tags are not saved with the point either, which is a warning


@pytest.mark.parametrize(
    ("keys", "mode", "reason"),
    [
        ("mode: differential", "differential", None),
        ("mode: full", "full", "the job reads in full"),
        ("audit: { every: 30d, read: all }", "incremental", None),
    ],
)
def test_a_plan_goes_by_the_mode_of_the_job(backed_up: BackedUp, keys: str, mode: str, reason: str | None) -> None:
    with (backed_up.site.folder / "jobs.d" / "nightly.yaml").open("a") as job:
        job.write(f"{keys}\n")
    disk = the_disk(planned(backed_up.site))
    assert (disk["mode"], disk["reason"]) == (mode, reason)


def test_a_vm_that_matches_newly_is_in_the_next_run(site: Site) -> None:
    select(site, f'{{ include: [ {{ name: "{site.name}*" }} ] }}')
    assert len(planned(site)["vms"]) == 1
    site.vcenter.create_vm(f"{site.name}-new", [DiskSpec(1 << 20)], tools_running=True)
    assert site.run_job().code == 0
    listed = json.loads(site.offhost("--repo", "main", "points", "list", "--json").out)
    assert len(listed) == 2


def test_a_vm_that_is_lost_is_named_by_the_plan_and_by_the_run(site: Site) -> None:
    lost = site.vcenter.create_vm(f"{site.name}-lost", [DiskSpec(1 << 20)])
    site.vcenter.set_connection(lost, "disconnected")
    select(site, f'{{ include: [ {{ name: "{site.name}*" }}, {{ name: no-such-vm }} ] }}')
    plan = planned(site, code=1)
    problems = {vm["vm"]: vm["problem"] for vm in plan["vms"] if vm["problem"]}
    assert set(problems) == {f"{site.name}-lost"}
    assert "not connected" in problems[f"{site.name}-lost"]["message"]
    assert plan["warnings"] == ["`include` names no VM with name: no-such-vm"]
    ran = site.run_job()
    assert ran.code == 1
    assert "not connected" in ran.out + ran.err
    assert "no-such-vm" in ran.out + ran.err
    site.vcenter.set_connection(lost, "connected")


def test_a_plan_reads_well(backed_up: BackedUp) -> None:
    said: Said = backed_up.site.offhost("jobs", "plan", "nightly")
    assert said.out.splitlines() == [
        backed_up.site.name,
        "  disk-1000-0 (16.0 MiB), incremental over datastore",
        "1 selected, 0 of them cannot be backed up, 0 left out",
    ]


def test_a_thousand_vms_are_planned_in_few_calls_little_time_and_memory(
    vcenter_binary: None, empty_repository: Path, tmp_path: Path
) -> None:
    with SimulatedVCenter(vms=1000) as simulated:
        site = Site(tmp_path / "site", simulated, "web01")
        shutil.copytree(empty_repository, site.repository)
        select(site, '{ include: [ { name: "*" } ] }')
        simulated.calls(reset=True)
        simulated.rules([Rule("*", mode="delay", delay_ms=100), Rule("rest:*", mode="delay", delay_ms=100)])
        before = cpu_s()
        with site.start("jobs", "plan", "nightly", "--json") as process:
            peak = PeakMemory(process.pid)
            plan = json.loads(process.communicate()[0])
        worked_s = cpu_s() - before
        calls = simulated.calls()
    count = sum(calls.methods.values()) + len(calls.rest)
    assert len(plan["vms"]) == 1001
    assert count <= MOST_CALLS
    assert worked_s + count * 0.1 < 10  # what it takes where nothing else keeps the processors
    assert peak.kib() < 300 << 10


def cpu_s() -> float:
    """Seconds that processes of ours which have ended kept a processor busy."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class PeakMemory:
    """The most memory that a process had resident, looked up while it lives."""

    def __init__(self, pid: int) -> None:
        self._status = Path(f"/proc/{pid}/status")
        self._found = 0
        self._watch = threading.Thread(target=self._look)
        self._watch.start()

    def kib(self) -> int:
        """What was found, once the process has ended."""
        self._watch.join()
        return self._found

    def _look(self) -> None:
        with contextlib.suppress(OSError, StopIteration):
            while True:
                lines = self._status.read_text().splitlines()
                self._found = int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])
                time.sleep(0.02)
