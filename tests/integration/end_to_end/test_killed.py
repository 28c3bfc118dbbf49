"""A backup that is told to stop, and one that is killed: what was there before is whole, and what was left is removed.

OFFHOST_KILLS says at how many moments a backup is killed; a few unless it does.
"""

import json
import os
import random
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator

import pytest

from offhost.state import State
from support.site import DISK_BYTES, FOREIGN, BackedUp, Site
from support.vcenter import Rule

KILLS = int(os.environ.get("OFFHOST_KILLS", "3"))
WRITTEN_BYTES = 12 << 20
OURS = "offhost backup"


@pytest.fixture
def start(backed_up: BackedUp) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Starts `offhost …` beside the test; what still runs at its end is killed."""
    started: list[subprocess.Popen[str]] = []

    def begin(*arguments: str) -> "subprocess.Popen[str]":
        started.append(backed_up.site.start(*arguments))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.communicate()


SLOW_READING = Rule("QueryChangedDiskAreas", mode="delay", delay_ms=1500)

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def slow_reading(backed_up: BackedUp) -> None:
    """Backups hold their snapshot for a while before they read."""
    backed_up.site.vcenter.rules([SLOW_READING])


def ended(process: "subprocess.Popen[str]") -> tuple[int, str]:
    """A process's exit code and what it said, when it has ended by itself."""
    out, err = process.communicate(timeout=60)
    return process.returncode, out + err


def serving(site: Site, process: "subprocess.Popen[str]") -> str:
    """Where a daemon answers, once it does."""
    assert process.stderr is not None
    for line in process.stderr:
        if " is ready: " in line:
            break
    url = State.open(site.folder / "state").daemon_address()
    assert url is not None
    return url


def begin_run(url: str) -> None:
    request = urllib.request.Request(f"{url}/api/v1/jobs/nightly/run", b"{}", {"Content-Type": "application/json"})
    urllib.request.urlopen(request, timeout=10).close()


def last_run(site: Site) -> str:
    """How the latest run ended."""
    return str(json.loads(site.offhost("runs", "list", "--json").out)[0]["state"])


@pytest.mark.usefixtures("slow_reading")
def test_a_backup_that_is_told_to_stop_removes_its_snapshot_first(backed_up: BackedUp, start: Start) -> None:
    site = backed_up.site
    process = start("jobs", "run", "nightly")
    site.wait_until_held()
    process.terminate()
    code, said = ended(process)
    assert code == 130, said
    assert last_run(site) == "cancelled"
    backed_up.assert_unharmed()


def test_a_snapshot_that_a_cancelled_run_could_not_remove_is_on_its_record(backed_up: BackedUp, start: Start) -> None:
    site = backed_up.site
    lacks = {"privilegeId": "VirtualMachine.State.RemoveSnapshot"}
    site.vcenter.rules([SLOW_READING, Rule("RemoveSnapshot*", fault="NoPermission", object=site.moref, fields=lacks)])
    process = start("jobs", "run", "nightly")
    site.wait_until_held()
    process.terminate()
    assert ended(process)[0] == 130
    (run,) = json.loads(site.offhost("runs", "list", "--json").out)[:1]
    (vm,) = json.loads(site.offhost("runs", "show", run["id"], "--json").out)["vms"]
    assert (run["state"], vm["problem"]["code"]) == ("cancelled", "cancelled")
    assert any("VirtualMachine.State.RemoveSnapshot" in warning for warning in vm["warnings"])


@pytest.mark.usefixtures("slow_reading")
def test_a_daemon_that_is_told_to_stop_removes_the_snapshots_of_its_runs_first(
    backed_up: BackedUp, start: Start
) -> None:
    site = backed_up.site
    process = start("serve")
    begin_run(serving(site, process))
    site.wait_until_held()
    process.terminate()
    code, said = ended(process)
    assert code == 0, said
    assert last_run(site) == "cancelled"
    backed_up.assert_unharmed()


@pytest.mark.usefixtures("slow_reading")
def test_the_next_daemon_removes_what_a_killed_one_left(backed_up: BackedUp, start: Start) -> None:
    site = backed_up.site
    killed = start("serve")
    begin_run(serving(site, killed))
    site.wait_until_held()
    killed.kill()
    killed.wait()
    assert site.snapshots() == [FOREIGN, OURS]
    serving(site, start("serve"))
    assert last_run(site) == "failed"
    site.wait_until_cleared()
    backed_up.assert_unharmed()


@pytest.mark.slow
@pytest.mark.timeout(60 + 30 * KILLS)
def test_backups_killed_at_any_moment_harm_nothing_and_the_next_ones_complete(
    backed_up: BackedUp, start: Start
) -> None:
    site, chance = backed_up.site, random.Random(f"{KILLS} kills")
    held_s = _time_held(site, start("jobs", "run", "nightly"))
    points = 2
    for kill in range(KILLS):
        site.write(chance.randrange(DISK_BYTES - WRITTEN_BYTES), chance.randbytes(WRITTEN_BYTES))
        process = start("jobs", "run", "nightly")
        site.wait_until_held()
        time.sleep(chance.uniform(0, held_s))
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert site.offhost("--repo", "main", "repo", "verify").code == 0, f"after kill {kill}"
        said = site.run_job()
        assert said.code == 0, f"after kill {kill}: {said}"
        assert site.snapshots() == [FOREIGN]
        assert site.restored(f"{site.name}@latest") == site.seen()
        points = _grown(site, points)
    backed_up.assert_unharmed(points=points)


def _time_held(site: Site, process: "subprocess.Popen[str]") -> float:
    """How long a backup that is left alone holds its snapshot, and what comes after."""
    site.write(0, random.Random(0).randbytes(WRITTEN_BYTES))
    site.wait_until_held()
    began = time.monotonic()
    code, said = ended(process)
    assert code == 0, said
    return time.monotonic() - began


def _grown(site: Site, before: int) -> int:
    """How many points there are now: one more by the completed run, and another if the kill came after the commit."""
    now = len(json.loads(site.offhost("--repo", "main", "points", "list", "--json").out))
    assert now in (before + 1, before + 2)
    return now
