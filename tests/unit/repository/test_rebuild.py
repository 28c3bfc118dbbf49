"""The index is made anew from packs and points alone, whatever has become of it."""

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from offhost.chunking.workers import SpanWorkers
from offhost.ids import SessionId
from offhost.repository.chunks.packs import Kind
from offhost.repository.chunks.runs import Run, get_run, put_run
from offhost.repository.points.manifest import Manifest
from offhost.repository.verification.rebuild import RebuildReport, rebuild
from offhost.repository.verification.verify import VerifyReport, verify
from support.damage import chunks_of, flip, pack_path, place_of
from support.repositories import Memory, back_up, content, noise, opened

CONTENT = noise(1, 500_000)


@pytest.fixture
def point(root: Path, workers: SpanWorkers) -> Manifest:
    with opened(root) as repository:
        back_up(repository, Memory(noise(2, 100_000)), workers, name="other")
        return back_up(repository, Memory(CONTENT), workers)


def rebuilt(root: Path, cache: Path | None = None) -> RebuildReport:
    with opened(root, cache) as repository:
        return rebuild(repository, stop=threading.Event())


def checked(root: Path) -> VerifyReport:
    with opened(root) as repository:
        return verify(repository, data=True, stop=threading.Event())


def all_files(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_a_sound_index_is_left_as_it_is(root: Path, point: Manifest) -> None:
    assert rebuilt(root).wrong == []
    assert checked(root).damage == []


@pytest.mark.parametrize("loss", ["all runs", "one run", "a bit of each run"])
def test_what_is_lost_is_made_anew_and_nothing_but_the_index_is_touched(root: Path, point: Manifest, loss: str) -> None:
    runs = sorted((root / "index").iterdir())
    if loss == "all runs":
        shutil.rmtree(root / "index")
        (root / "index").mkdir()
    elif loss == "one run":
        runs[0].unlink()
    else:
        for run in runs:
            flip(run, run.stat().st_size // 2)
        assert len(checked(root).damage) == len(runs)
    before = all_files(root)
    report = rebuilt(root)
    assert report.packs == 2
    assert report.runs_put >= 1
    after = all_files(root)
    changed = {path.parent.name for path in before.keys() ^ after.keys()}
    assert changed == {"index"}
    assert all(after[path] == data for path, data in before.items() if path in after)
    assert checked(root).damage == []
    with opened(root) as repository:
        assert content(repository, point) == CONTENT


def with_lie(root: Path, point: Manifest) -> None:
    """A run says that a chunk lies where another one does, and that a pack holds what it never did."""
    with opened(root) as repository:
        place = place_of(repository, chunks_of(repository, point, Kind.CONTENT)[0])
        (name,) = (
            f"index/{path.name}"
            for path in (root / "index").iterdir()
            if place.pack in get_run(repository.backend, repository.keyring, f"index/{path.name}").packs
        )
        run = get_run(repository.backend, repository.keyring, name)
        entries = run.entries.copy()
        entries["offset"][:2] = entries["offset"][1::-1]
        entries["id"][3] = b"never stored" + bytes(20)
        repository.backend.delete(name)
        put_run(repository.backend, repository.keyring, Run(run.packs, entries, run.shard))


def test_a_run_that_lies_is_found_and_replaced(root: Path, point: Manifest, tmp_path: Path) -> None:
    with_lie(root, point)
    found = checked(root)
    assert any("what their directories do not" in damage.what for damage in found.damage)
    assert all("rebuild" in (damage.hint or "") for damage in found.damage if damage.what.startswith("index/"))
    with opened(root, tmp_path / "cache"):
        pass
    assert len(rebuilt(root, tmp_path / "cache").wrong) == 1
    assert checked(root).damage == []
    with opened(root, tmp_path / "cache") as repository:
        assert content(repository, point) == CONTENT


def test_a_writer_in_the_same_process_believes_a_lie_no_longer(
    root: Path, point: Manifest, workers: SpanWorkers
) -> None:
    with_lie(root, point)
    with opened(root) as repository:
        rebuild(repository, stop=threading.Event())
        again = back_up(repository, Memory(CONTENT), workers)
        assert content(repository, again) == CONTENT


def test_packs_that_do_not_open_or_have_vanished_are_named_and_marked(root: Path, point: Manifest) -> None:
    with opened(root) as repository:
        pack = place_of(repository, chunks_of(repository, point, Kind.CONTENT)[0]).pack
    path = pack_path(root, pack)
    whole = path.read_bytes()
    flip(path, path.stat().st_size - 30)
    report = rebuilt(root)
    assert len(report.unreadable) == 1
    assert pack in report.unreadable[0]
    with opened(root) as repository:
        assert repository.marks.damaged()[pack] is None
    path.write_bytes(whole)
    assert rebuilt(root).unreadable == []
    path.unlink()
    assert pack in rebuilt(root).vanished[0]


def test_a_backup_beside_it_loses_nothing(root: Path, point: Manifest, workers: SpanWorkers) -> None:
    stop = threading.Event()

    def again_and_again() -> None:
        while not stop.is_set():
            rebuilt(root)

    wanted: dict[SessionId, bytes] = {}
    with ThreadPoolExecutor(1) as pool:
        beside = pool.submit(again_and_again)
        for generation in range(3):
            with opened(root) as repository:
                disk = Memory(noise(generation, 200_000))
                wanted[back_up(repository, disk, workers).id] = bytes(disk.content)
        stop.set()
        beside.result()
    assert checked(root).damage == []
    with opened(root) as repository:
        points = {each.id: each for each in repository.points.all()}
        assert all(content(repository, points[name]) == plain for name, plain in wanted.items())
