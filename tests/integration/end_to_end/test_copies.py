"""Restore points in a second repository: by a job's `copy_to`, and by `offhost copy`, which may be killed."""

import filecmp
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.site import PASSPHRASE, Site

pytestmark = pytest.mark.slow

OTHER_PASSPHRASE = "another horse"
KILLS = int(os.environ.get("OFFHOST_KILLS", "3"))
DISK_BYTES = 160 << 20


@pytest.fixture
def site(site: Site) -> Site:
    """A proxy whose job copies to a second repository, with a passphrase of its own."""
    site.secret("offsite-passphrase", OTHER_PASSPHRASE)
    with (site.folder / "proxy.yaml").open("a") as proxy:
        secret = f'"{{file {site.folder}/offsite-passphrase}}"'
        proxy.write(f"  offsite: {{ path: {site.folder}/offsite, passphrase: {secret} }}\n")
    with (site.folder / "jobs.d" / "nightly.yaml").open("a") as job:
        job.write("copy_to: [ { repository: offsite, within: 24h } ]\n")
    said = site.offhost("--repo", "offsite", "repo", "init", "--like", "main")
    assert said.code == 0, said.err
    return site


def copies(site: Site) -> list[dict[str, object]]:
    """What the last run copied of its VM."""
    run = json.loads(site.offhost("runs", "list", "--json").out)[0]["id"]
    (vm,) = json.loads(site.offhost("runs", "show", run, "--json").out)["vms"]
    return list(vm["copies"])


def restored_offsite(site: Site) -> bytes:
    file = site.folder / "offsite.raw"
    said = site.offhost("--repo", "offsite", "restore", "disk", f"{site.name}@latest", "--to", file)
    assert said.code == 0, said.err
    content = file.read_bytes()
    file.unlink()
    return content


def test_a_job_copies_each_point_and_only_what_changed(site: Site) -> None:
    assert site.run_job().code == 0
    assert restored_offsite(site) == site.seen()
    site.write(3 << 20, b"written after the first backup" * 1000)
    assert site.run_job().code == 0
    assert restored_offsite(site) == site.seen()
    (copy,) = copies(site)
    assert copy["repository"] == "offsite"
    assert isinstance(copy["read_bytes"], int)
    assert copy["read_bytes"] < 1 << 20
    assert "1 restore points copied to offsite" in site.offhost("runs", "show", str(last_run(site))).out


def last_run(site: Site) -> object:
    return json.loads(site.offhost("runs", "list", "--json").out)[0]["id"]


def test_what_could_not_be_copied_is_a_warning_and_is_copied_by_the_next_run(site: Site) -> None:
    assert site.run_job().code == 0
    (site.folder / "offsite").rename(site.folder / "away")
    site.write(1 << 20, b"while the other repository was away")
    said = site.run_job()
    assert said.code == 3, said
    assert any("not copied to offsite" in warning for warning in said.warnings)
    assert site.restored(f"{site.name}@latest") == site.seen()
    (site.folder / "away").rename(site.folder / "offsite")
    site.write(2 << 20, b"when it was back")
    assert site.run_job().code == 0
    assert restored_offsite(site) == site.seen()
    listed = [json.loads(site.offhost("--repo", name, "points", "list", "--json").out) for name in ("main", "offsite")]
    assert len(listed[0]) == len(listed[1]) == 3


def offhost(*arguments: str | Path, passphrase: str = OTHER_PASSPHRASE) -> "subprocess.Popen[str]":
    """`offhost …` as a process, which knows the first repository's passphrase as that of a copy's source."""
    program = "import sys; from offhost.cli.main import main; sys.exit(main())"
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        env=os.environ | {"OFFHOST_FROM_PASSPHRASE": PASSPHRASE, "OFFHOST_PASSPHRASE": passphrase},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: "subprocess.Popen[str]") -> str:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out


@pytest.mark.timeout(120 + 30 * KILLS)
def test_a_copy_killed_at_any_moment_goes_on_where_it_was(
    empty_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    chance = random.Random(f"{KILLS} kills")
    source, destination, disk = tmp_path / "source", tmp_path / "destination", tmp_path / "disk.raw"
    shutil.copytree(empty_repository, source)
    disk.write_bytes(chance.randbytes(DISK_BYTES))
    ended(offhost("--repo", source, "backup", "image", disk, "--name", "web", passphrase=PASSPHRASE))
    ended(offhost("--repo", destination, "repo", "init"))
    for _ in range(KILLS):
        process = offhost("copy", "--from", source, "--to", destination)
        time.sleep(chance.uniform(0.5, 2.5))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        ended(offhost("--repo", destination, "repo", "verify"))
    ended(offhost("copy", "--from", source, "--to", destination))
    ended(offhost("--repo", destination, "restore", "disk", "web@latest", "--to", tmp_path / "restored.raw"))
    assert filecmp.cmp(tmp_path / "restored.raw", disk, shallow=False)
    stored = sum(path.stat().st_size for path in destination.glob("packs/*/*"))
    assert stored < 1.01 * DISK_BYTES, "what was stored before a kill was not stored again"
