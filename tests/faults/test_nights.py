"""Nights of many VMs, with moves, dropped sessions, cut runs and full datastores: little is read, nothing stays."""

import random
import resource
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from faults.campaign import LONG, Tally
from faults.truth import impatient
from faults.witness import DATASTORES, GRAIN, Trial, on_trial
from offhost.backup.report import VmReport
from offhost.chunking.workers import SpanWorkers
from support.repositories import noise
from support.vcenter import DiskSpec, SimulatedVCenter

pytestmark = [pytest.mark.slow, pytest.mark.timeout(0 if LONG else 300)]

VMS, NIGHTS = (50, 30) if LONG else (5, 6)
DISK_BYTES = 16 << 20
MOST_READ = 1.6
"""Times what changed."""
STEADY_KIB = (32 << 10) + VMS * (2 << 10)
"""Each VM has a repository of its own here, with what it remembers of its points."""
TROUBLES = ("the storage moves", "sessions are dropped", "the VM is renamed", "the run is cancelled")


@pytest.fixture
def trials(
    vcenter_binary: None, workers: SpanWorkers, fast_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[Trial]]:
    """VMs of one vCenter, whose change tracking is active, each backed up once."""
    impatient(monkeypatch)
    with ExitStack() as scope:
        vcenter = scope.enter_context(SimulatedVCenter(datastores=DATASTORES, directory=fast_folder))
        made = []
        for number in range(VMS):
            disk = DiskSpec(DISK_BYTES, noise(number, DISK_BYTES // 2))
            moref = vcenter.create_vm(f"web{number}", [disk], change_tracking=True)
            vcenter.remove_snapshot(moref, vcenter.create_foreign_snapshot(moref, "stun"))
            folder = fast_folder / f"nights-{number}"
            folder.mkdir()
            made.append(scope.enter_context(on_trial(vcenter, moref, workers, folder)))
        yield made


def test_nights_read_what_changed_and_leave_nothing(trials: list[Trial], tally: Tally) -> None:
    chance = random.Random(7)
    changed = read = 0
    for trial in trials:
        trial.back_up()
    after_first = _memory_kib()
    for _ in range(NIGHTS):
        for trial in trials:
            grains = _a_day(trial, chance)
            disks = [disk for report in _a_night(trial, chance) for disk in report.disks]
            changed += grains * GRAIN
            read += sum(disk.read_bytes for disk in disks if disk.mode != "full")
            assert all(disk.mode != "full" or disk.reason for disk in disks)
            assert trial.vcenter.snapshots(trial.moref) == ()
    assert 0 < read <= MOST_READ * changed
    assert _memory_kib() - after_first < STEADY_KIB
    for trial in trials:
        trial.compare_all()
        assert _sessions_open(trial) == set()
    tally.count("nights of VMs", sum(trial.counts["backups"] for trial in trials), len(trials) * NIGHTS)


def _a_day(trial: Trial, chance: random.Random) -> int:
    """What a guest writes, in runs as files are written; how many grains, each counted once."""
    disk = trial.vcenter.disks(trial.moref)[0]
    written: set[int] = set()
    for _ in range(4):
        length = chance.randrange(2, 9)
        first = chance.randrange(DISK_BYTES // GRAIN - length)
        trial.vcenter.write(trial.moref, disk.key, first * GRAIN, chance.randbytes(length * GRAIN))
        written.update(range(first, first + length))
    return len(written)


def _a_night(trial: Trial, chance: random.Random) -> list[VmReport]:
    """A backup, now and then after one that was disturbed, or refused because the datastore was nearly full."""
    disturbed = []
    if chance.random() < 0.3:
        moment = chance.choice(("chosen", "opened"))
        trouble = (chance.choice(TROUBLES), chance.randrange(9), chance.randrange(9))
        disturbed = [trial.back_up(during={moment: trouble})]
    elif chance.random() < 0.1:
        _nearly_full(trial)
    return [*disturbed, trial.back_up()]


def _nearly_full(trial: Trial) -> None:
    for name in DATASTORES:
        trial.vcenter.set_free_space(name, free_bytes=1 << 20, capacity_bytes=100 << 30)
    report = trial.back_up(min_free=0.1)
    for name in DATASTORES:
        trial.vcenter.set_free_space(name, free_bytes=90 << 30, capacity_bytes=100 << 30)
    assert report.problem is not None
    assert report.problem.code == "datastore_low_space"
    assert trial.vcenter.snapshots(trial.moref) == ()


def _sessions_open(trial: Trial) -> set[str]:
    """The sessions in the repository without an end: that of a writer is its point, or a tombstone in its place."""
    began = {path.name for path in (trial.root / "sessions").iterdir() if "." not in path.name}
    left = {path.stem for path in (trial.root / "sessions").glob("*.end")}
    return began - left - {path.name for path in (trial.root / "points").rglob("*")}


def _memory_kib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
