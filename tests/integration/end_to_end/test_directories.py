"""Jobs of kind directory, from the command line: a VM's folder as it is, and with its VM shut down meanwhile."""

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.site import Said, Site
from support.vcenter import Rule

ON, OFF = "poweredOn", "poweredOff"
_JOB = """\
job: folder
kind: directory
{vcenter}
directory: {{ path: {path}, {how} }}
repository: main
"""


def write_job(site: Site, how: str, *, vcenter: str = "vcenter: main", path: Path | None = None) -> None:
    where = path or site.extent.parent
    (site.folder / "jobs.d" / "folder.yaml").write_text(_JOB.format(path=where, how=how, vcenter=vcenter))


def run(site: Site) -> Said:
    return site.offhost("jobs", "run", "folder")


def latest(site: Site) -> dict[str, object]:
    listed = json.loads(site.offhost("--repo", "main", "points", "list", "--json").out)
    return dict(listed[-1])


def power(site: Site) -> str:
    return site.vcenter.power_state(site.moref)


@pytest.fixture
def off_job(site: Site) -> Site:
    """A job that has the VM shut down."""
    write_job(site, "consistency: power_off, shutdown_timeout: 1m")
    site.vcenter.set_tools(site.moref, running=True)
    return site


@pytest.fixture
def start(site: Site) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    started: list[subprocess.Popen[str]] = []

    def begin(*arguments: str) -> "subprocess.Popen[str]":
        started.append(site.start(*arguments))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def test_a_folder_as_it_is_asks_vcenter_nothing_and_reads_the_whole_chain(site: Site) -> None:
    write_job(site, "consistency: as_is", vcenter="")
    site.write(5 << 20, b"above a snapshot" * 1000)
    site.vcenter.calls(reset=True)
    said = run(site)
    assert said.code == 0, said
    point = latest(site)
    asked = {name for name in site.vcenter.calls().methods if "Snapshot" in name or "Power" in name}
    assert (point["vm"], asked) == (site.name, set())
    assert site.restored(str(point["id"])) == site.seen()


def test_a_plan_says_that_the_vm_is_shut_down_and_touches_nothing(off_job: Site) -> None:
    site = off_job
    site.vcenter.calls(reset=True)
    said = site.offhost("jobs", "plan", "folder")
    assert said.code == 0, said
    assert "the VM is shut down meanwhile" in said.out
    assert (power(site), "ShutdownGuest" in site.vcenter.calls().methods) == (ON, False)


def test_a_vm_is_shut_down_read_and_started_again(off_job: Site) -> None:
    site = off_job
    said = run(site)
    assert said.code == 0, said
    point = latest(site)
    assert (point["consistency"], power(site)) == ("offline", ON)
    assert site.restored(str(point["id"])) == site.seen()
    assert not list((site.folder / "state" / "power").iterdir())


def test_a_backup_that_fails_has_the_vm_started_again(off_job: Site) -> None:
    site = off_job
    site.secret("passphrase", "another")
    assert run(site).code == 1
    assert power(site) == ON
    site.extent.with_name("broken.vmdk").write_text("# Disk DescriptorFile\n")
    (site.extent.parent / f"{site.name}.vmx").write_text('scsi0:0.fileName = "broken.vmdk"\n')
    assert run(site).code == 1
    assert power(site) == ON


def killed_while_off(site: Site, start: Callable[..., "subprocess.Popen[str]"]) -> None:
    """Kill a run while the VM is off."""
    process = start("jobs", "run", "folder")
    for _ in range(600):
        if power(site) == OFF:
            break
        time.sleep(0.01)
    process.kill()
    process.wait()


def test_after_a_kill_the_next_run_of_any_job_starts_the_vm_again(
    off_job: Site, start: Callable[..., "subprocess.Popen[str]"]
) -> None:
    site = off_job
    killed_while_off(site, start)
    assert power(site) == OFF
    said = site.run_job()
    assert "it was off, and was started again" in said.err + said.out, said
    assert power(site) == ON
    assert not list((site.folder / "state" / "power").iterdir())


def test_after_a_kill_the_next_daemon_starts_the_vm_again(
    off_job: Site, start: Callable[..., "subprocess.Popen[str]"]
) -> None:
    site = off_job
    killed_while_off(site, start)
    assert power(site) == OFF
    start("serve")
    for _ in range(1000):
        if power(site) == ON:
            break
        time.sleep(0.02)
    assert power(site) == ON


def test_a_vm_that_cannot_be_started_is_a_failed_run_that_keeps_its_point_and_names_it(off_job: Site) -> None:
    site = off_job
    lacks = {"privilegeId": "VirtualMachine.Interact.PowerOn"}
    site.vcenter.rules([Rule("PowerOnVM_Task", fault="NoPermission", object=site.moref, fields=lacks)])
    said = run(site)
    assert said.code == 1
    assert any("could NOT be started again" in line and "PowerOn" in line for line in said.errors), said
    assert latest(site)["consistency"] == "offline"
    site.vcenter.rules([])
    said = run(site)
    assert (said.code, power(site)) == (0, ON)


def test_a_copy_of_the_folder_does_not_have_the_vm_shut_down(off_job: Site, tmp_path: Path) -> None:
    site = off_job
    copied = tmp_path / "copy"
    subprocess.run(["cp", "-r", str(site.extent.parent), str(copied)], check=True)
    write_job(site, "consistency: power_off", path=copied)
    site.vcenter.calls(reset=True)
    said = run(site)
    assert said.code == 1
    assert "copy" in said.out + said.err
    assert power(site) == ON
    assert "ShutdownGuest" not in site.vcenter.calls().methods
