"""The benchmark measures what it says: disks, areas, processes, and whether a target is met."""

import sys
from pathlib import Path

import pytest

from bench.collection import phases
from bench.disks import GRAIN_BYTES, changed_areas, used_bytes
from bench.measure import CommandFailed, Cost, run
from bench.report import SPEED_TARGETS, inserted, render
from bench.sitting import BORG, CHECKED, RESTIC, UNCHECKED, Sitting
from bench.stages import Together
from offhost.chunking.workers import SpanWorkers
from offhost.extents import Extent
from support.repositories import Memory, back_up, make, noise, opened

MIB = 1 << 20


def disk(path: Path, content: dict[int, bytes], *, size_bytes: int = 48 * MIB) -> Path:
    with path.open("wb") as file:
        file.truncate(size_bytes)
        for offset, data in content.items():
            file.seek(offset)
            file.write(data)
    return path


def test_used_bytes_are_the_pages_that_are_not_zero(tmp_path: Path) -> None:
    image = disk(tmp_path / "a.raw", {0: b"boot", 40 * MIB: b"x" * 4097, 44 * MIB: bytes(MIB)})
    assert used_bytes(image) == 3 * 4096


def test_changed_areas_are_the_grains_that_differ(tmp_path: Path) -> None:
    before = disk(tmp_path / "a.raw", {0: b"same", 5 * MIB: b"old", 20 * MIB: b"removed"})
    after = disk(tmp_path / "b.raw", {0: b"same", 5 * MIB: b"new", 40 * MIB - 1: b"over a grain's edge"})
    assert list(changed_areas(before, after)) == [
        Extent(5 * MIB, 5 * MIB + GRAIN_BYTES),
        Extent(20 * MIB, 20 * MIB + GRAIN_BYTES),
        Extent(40 * MIB - GRAIN_BYTES, 40 * MIB + GRAIN_BYTES),
    ]


def test_disks_of_different_size_have_no_changed_areas(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="differ in size"):
        changed_areas(disk(tmp_path / "a.raw", {}), disk(tmp_path / "b.raw", {}, size_bytes=MIB))


@pytest.mark.slow
def test_a_childs_memory_counts_as_its_parents() -> None:
    hold = "held = b'x' * (64 << 20); import time; time.sleep(0.3)"
    cost = run(
        [sys.executable, "-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {hold!r}])"], env={}
    )
    assert cost.peak_anonymous_bytes >= 64 * MIB
    assert cost.wall_s >= 0.3


def test_a_command_that_fails_has_no_cost() -> None:
    with pytest.raises(CommandFailed, match="no such disk"):
        run([sys.executable, "-c", "raise SystemExit('no such disk')"], env={})


def sitting(*, ours_s: float) -> Sitting:
    """A sitting in which borg took 10 s for everything."""
    measured = Sitting(used_bytes={"A": 100 * MIB}, area_bytes=10 * MIB, read_bytes=12 * MIB)
    for target in SPEED_TARGETS:
        measured.costs[target.step, BORG] = Cost(10, 10, 80 * MIB, "")
        measured.costs[target.step, CHECKED] = Cost(ours_s, ours_s, 200 * MIB, "")
        measured.costs[target.step, RESTIC] = Cost(40, 40, 80 * MIB, "")
        measured.costs[target.step, UNCHECKED] = Cost(ours_s, ours_s, 200 * MIB, "")
    measured.repository_bytes = {CHECKED: 80 * MIB, UNCHECKED: 80 * MIB, BORG: 100 * MIB}
    return measured


@pytest.mark.parametrize(("ours_s", "missed"), [(0.5, 0), (2.0, 3), (10.0, 6)])
def test_the_report_says_which_targets_were_missed(ours_s: float, missed: int) -> None:
    assert render([sitting(ours_s=ours_s)], "make bench", "0").count("**not met**") == missed


def test_each_peer_is_compared_by_time_and_by_processor_seconds() -> None:
    report = render([sitting(ours_s=2)], "make bench", "0")
    five, twenty = (f"{times} × (by processor seconds {times} ×)" for times in ("5.0", "20.0"))
    assert f"| first full, A | {five} | {twenty} |" in report


def test_a_task_is_held_against_what_its_stages_allow_on_all_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    assert Together("scan", wall_s=2, cpu_s=3, alone_s={"read": 1, "hash": 2}).share == 0.75


def test_what_people_wrote_around_the_figures_survives_the_next_report() -> None:
    report = "# Speed\n" + inserted("\n## What limits them\n\nThe disk.\n", "first") + "\n## The index\n"
    later = inserted(report, "second")
    assert "first" not in later
    assert later == report.replace("first", "second")


@pytest.mark.slow
def test_a_collection_says_where_its_seconds_go(tmp_path: Path) -> None:
    root = make(tmp_path / "repository")
    with opened(root) as repository, SpanWorkers(1) as workers:
        gone = back_up(repository, Memory(noise(1, 1 << 20)), workers, name="gone")
        back_up(repository, Memory(noise(2, 1 << 20)), workers, name="kept")
        repository.marks.forget(gone.id, "by hand")
        spent = phases(repository)
        assert set(spent) >= {"mark 2 points, twice", "look into what is condemned", "rewrite", "sweep"}
        assert len(repository.points.all()) == 1
