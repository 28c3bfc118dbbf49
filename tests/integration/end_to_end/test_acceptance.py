"""`offhost acceptance`: the life of a throw-away VM, on the simulator and, of its guest, on an emulated machine."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

import offhost.acceptance
from offhost.acceptance import guest
from offhost.acceptance.life import Acceptance
from offhost.acceptance.verdict import Verdict
from offhost.state import State
from support.site import Site
from support.vcenter import Rule


def vms(site: Site) -> list[str]:
    said = site.offhost("jobs", "plan", "nightly", "--json")
    return [vm["vm"] for vm in json.loads(said.out)["vms"]]


def test_the_whole_life_of_a_vm_is_seen_and_nothing_is_left(site: Site, tmp_path: Path) -> None:
    report = tmp_path / "VERIFIED.md"
    stores = {name: sorted(path.rglob("*")) for name, path in site.vcenter.datastores.items()}
    said = site.offhost("acceptance", "--datastore", "DS1", "--report", str(report))
    assert said.code == 0, said
    assert said.out.count("ok     ") == 6
    assert "96.0 KiB" in said.out
    assert "VMware's simulator (vcsim): accepted" in said.out
    text = report.read_text()
    assert "VMware's simulator (vcsim): accepted on" in text
    assert text.count("| ok |") == 6
    assert {name: sorted(path.rglob("*")) for name, path in site.vcenter.datastores.items()} == stores
    assert vms(site) == [site.name]


def test_a_step_that_fails_is_told_and_nothing_is_left(site: Site) -> None:
    site.vcenter.rules(
        [
            Rule("CreateSnapshotEx_Task", mode="task", fault="SnapshotFault"),
            Rule("CreateSnapshot_Task", mode="task", fault="SnapshotFault"),
        ]
    )
    said = site.offhost("acceptance", "--datastore", "DS1", "--json")
    assert said.code == 1
    told = json.loads(said.out)
    assert told["accepted"] is False
    assert [step["failed"] for step in told["steps"]] == [False, True, False]
    assert "backed up in full" in told["steps"][1]["what"]
    site.vcenter.rules([])
    assert vms(site) == [site.name]


def test_no_daemon_beside_it_takes_its_snapshots_for_leftovers(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    dead: list[bool] = []

    async def run(self: Acceptance, *_: object) -> Verdict:
        dead.append(State.open(site.folder / "state").is_dead(self.owner.run))
        return Verdict(self.vsphere.about, self.clock.now(), "DS1", (), (), None)

    monkeypatch.setattr(Acceptance, "run", run)
    assert site.offhost("acceptance", "--datastore", "DS1").code == 0
    assert dead == [False]


def test_change_tracking_that_lies_is_not_accepted(site: Site) -> None:
    site.vcenter.rules([Rule("QueryChangedDiskAreas", fault="FileFault", fields={"file": "x.vmdk"})])
    said = site.offhost("acceptance", "--datastore", "DS1")
    assert said.code == 1
    assert "it was not backed up by its changes" in said.out


def test_the_guest_writes_on_a_machine_what_is_expected_of_it_and_switches_it_off(tmp_path: Path) -> None:
    qemu = shutil.which("qemu-system-x86_64")
    if qemu is None:
        pytest.skip("there is no qemu-system-x86_64")
    before = guest.content(seed=1)
    disk = tmp_path / "disk.raw"
    disk.write_bytes(before)
    machine = [
        qemu,
        "-accel",
        "tcg",
        "-m",
        "64",
        "-display",
        "none",
        "-serial",
        "none",
        "-monitor",
        "none",
        "-nic",
        "none",
    ]
    subprocess.run([*machine, "-drive", f"file={disk},format=raw,if=ide"], check=True, timeout=60)
    assert disk.read_bytes() == guest.written(before)


def test_the_program_is_what_its_source_says(tmp_path: Path) -> None:
    if shutil.which("as") is None or shutil.which("objcopy") is None:
        pytest.skip("there is no assembler")
    source = Path(offhost.acceptance.__file__).with_name("guest.S")
    subprocess.run(["as", "--32", source, "-o", tmp_path / "guest.o"], check=True)
    subprocess.run(["objcopy", "-O", "binary", tmp_path / "guest.o", tmp_path / "guest.bin"], check=True)
    assert (tmp_path / "guest.bin").read_bytes() == guest.boot_sector()
