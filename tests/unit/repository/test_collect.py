"""Collecting gives back what nobody needs, and takes nothing that anybody does."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest.mock import patch

import pytest

from offhost.backend.local import LocalBackend
from offhost.chunking.workers import SpanWorkers
from offhost.errors import CollectionBlocked, Conflict, FormatTooNew, IntegrityError, SessionFenced, Stopped
from offhost.extents import Extent, ExtentMap
from offhost.ids import ChunkId, VmId, image_id
from offhost.repository.chunks.packer import WriteCheck
from offhost.repository.collection.collect import Collected, Collector
from offhost.repository.objects.attendance import Session, attendance, fence
from offhost.repository.objects.sealed import ObjectType, seal_json
from offhost.repository.points.manifest import Manifest
from offhost.repository.points.restorepoint import RestorePoint
from offhost.repository.repository import Repository
from offhost.repository.session import WriteSession
from support.faulty_backend import FaultyBackend
from support.repositories import Memory, back_up, content, noise, opened, point_of

MIB = 1 << 20


def collect(repository: Repository, *, wait: bool = True) -> Collected:
    return Collector(repository, threading.Event(), wait=wait, look_again_s=0.01).run()


def forget(repository: Repository, *points: Manifest) -> None:
    for point in points:
        repository.marks.forget(point.id, "by hand")


def files_below(root: Path) -> dict[str, int]:
    return {str(path.relative_to(root)): path.stat().st_size for path in root.rglob("*") if path.is_file()}


def packs_of(root: Path) -> set[str]:
    return {path.name for path in (root / "packs").rglob("*") if path.is_file()}


def stored_bytes(root: Path) -> int:
    return sum(path.stat().st_size for path in (root / "packs").rglob("*") if path.is_file())


def test_where_nothing_was_forgotten_nothing_goes(repository: Repository, root: Path, workers: SpanWorkers) -> None:
    back_up(repository, Memory(noise(1, MIB)), workers)
    back_up(repository, Memory(noise(2, MIB)), workers)
    before = packs_of(root)
    assert collect(repository).generation is None
    assert packs_of(root) == before
    assert not list((root / "condemned").iterdir())


def test_a_forgotten_point_gives_back_its_space_and_no_other_is_touched(
    repository: Repository, root: Path, workers: SpanWorkers
) -> None:
    kept = back_up(repository, Memory(noise(1, MIB)), workers, name="kept")
    gone = back_up(repository, Memory(noise(2, MIB)), workers, name="gone")
    before = stored_bytes(root)
    forget(repository, gone)
    done = collect(repository)
    assert (done.swept.points, done.swept.packs) == (1, 1)
    assert done.freed_bytes == before - stored_bytes(root) >= MIB
    assert content(repository, kept) == noise(1, MIB)
    assert [path.name for path in (root / "points").rglob("*") if path.is_file()] == [kept.id]
    assert not list((root / "marks").iterdir())
    assert not list((root / "sessions").iterdir())
    with opened(root) as fresh:
        assert content(fresh, kept) == noise(1, MIB)
        again = back_up(fresh, Memory(noise(2, MIB)), workers, name="gone")
        assert content(fresh, again) == noise(2, MIB)


def test_a_mostly_dead_pack_is_rewritten(repository: Repository, root: Path, workers: SpanWorkers) -> None:
    old = noise(1, 4 * MIB)
    new = old[: MIB // 2] + noise(2, 4 * MIB - MIB // 2)
    first = back_up(repository, Memory(old), workers)
    second = back_up(repository, Memory(new), workers)
    forget(repository, first)
    before = packs_of(root)
    done = collect(repository)
    assert done.rewritten_bytes >= MIB // 2 - 256 * 1024
    assert first.id not in {point.id for point in repository.points.all()}
    assert content(repository, second) == new
    assert len(before - packs_of(root)) >= 1
    assert stored_bytes(root) < 4.5 * MIB
    with opened(root) as fresh:
        assert content(fresh, second) == new


def test_a_patch_outlives_the_point_of_its_keyframe(repository: Repository, root: Path, workers: SpanWorkers) -> None:
    disk = bytearray(noise(1, 8 * MIB))
    points = [back_up(repository, Memory(disk), workers)]
    for day in range(1, 6):
        at = day * MIB
        disk[at : at + 65536] = noise(day + 1, 65536)
        points.append(back_up(repository, Memory(disk), workers, areas=ExtentMap([Extent(at, at + 65536)])))
    forget(repository, *points[:4])
    collect(repository)
    with opened(root) as fresh:
        assert content(fresh, points[-1]) == bytes(disk)
        collect(fresh)
        disk[:65536] = noise(9, 65536)
        last = back_up(fresh, Memory(disk), workers, areas=ExtentMap([Extent(0, 65536)]))
        forget(fresh, *points[4:])
        collect(fresh)
    with opened(root) as fresh:
        assert content(fresh, last) == bytes(disk)


def test_a_chunk_that_two_packs_hold_is_kept_once(root: Path, workers: SpanWorkers) -> None:
    disk = Memory(noise(1, MIB))
    with opened(root) as one, opened(root) as other, _writing(other, disk, workers, "two") as go_on:
        back_up(one, disk, workers, name="one")  # which the other, having looked before, does not see
        go_on.set()
    assert stored_bytes(root) > 2 * MIB
    with opened(root) as repository:
        collect(repository)
        assert stored_bytes(root) < 1.2 * MIB
        assert [content(repository, point) for point in repository.points.all()] == [disk.content] * 2
    with opened(root) as repository:
        assert [content(repository, point) for point in repository.points.all()] == [disk.content] * 2


def test_a_dry_run_tells_and_changes_nothing(repository: Repository, root: Path, workers: SpanWorkers) -> None:
    gone = back_up(repository, Memory(noise(1, MIB)), workers)
    back_up(repository, Memory(noise(2, MIB)), workers)
    forget(repository, gone)
    before = files_below(root)
    proposal = Collector(repository, threading.Event()).propose()
    assert proposal.points == {gone.id}
    assert len(proposal.dead) == 1
    assert MIB <= proposal.freed_bytes <= 1.2 * MIB
    assert files_below(root) == before


def test_a_point_that_is_being_read_is_spared_until_its_reader_ends(
    repository: Repository, root: Path, workers: SpanWorkers
) -> None:
    point = back_up(repository, Memory(noise(1, MIB)), workers)
    back_up(repository, Memory(noise(2, MIB)), workers)
    with opened(root) as elsewhere:
        with elsewhere.reading(point) as held:
            forget(repository, point)
            collect(repository)
            buffer = bytearray(MIB)
            held.disk().read_into(0, memoryview(buffer))
            assert bytes(buffer) == noise(1, MIB)
        collect(repository)
        assert stored_bytes(root) < 1.2 * MIB
        with pytest.raises((Conflict, IntegrityError)), elsewhere.reading(point):
            pass


def test_a_writer_that_began_before_is_waited_for(repository: Repository, root: Path, workers: SpanWorkers) -> None:
    disk = Memory(noise(1, MIB))
    gone = back_up(repository, disk, workers, name="gone")
    back_up(repository, Memory(noise(2, MIB)), workers, name="kept")
    with opened(root) as elsewhere, elsewhere.session(image_id("late")):
        forget(repository, gone)
        waiting = collect(repository, wait=False)
        assert len(waiting.waiting_for) == 1
        assert len(packs_of(root)) == 2, "nothing was deleted before the writer has ended"
        stop = threading.Event()
        stop.set()
        with pytest.raises(Stopped):
            Collector(repository, stop).run()
    done = collect(repository)
    assert done.resumed
    assert done.swept.packs == 1


def test_what_a_writer_takes_up_meanwhile_leaves_the_list(
    repository: Repository, root: Path, workers: SpanWorkers
) -> None:
    disk = Memory(noise(1, MIB))
    gone = back_up(repository, disk, workers, name="gone")
    with opened(root) as elsewhere:
        with _writing(elsewhere, disk, workers, "late") as go_on:
            forget(repository, gone)
            assert collect(repository, wait=False).waiting_for
            go_on.set()
        done = collect(repository)
    (late,) = repository.points.all()
    assert content(repository, late) == disk.content
    assert done.spared_packs >= 1


@contextmanager
def _writing(repository: Repository, disk: Memory, workers: SpanWorkers, name: str) -> Iterator[threading.Event]:
    """A backup in a thread that has opened its session, and goes on when it is told to; leaving waits for its end."""
    begun, go_on = threading.Event(), threading.Event()

    def write() -> None:
        with _slow_session(repository, begun, go_on):
            back_up(repository, disk, workers, name=name)

    writer = threading.Thread(target=write)
    writer.start()
    begun.wait()
    try:
        yield go_on
    finally:
        go_on.set()
        writer.join()


@contextmanager
def _slow_session(repository: Repository, begun: threading.Event, go_on: threading.Event) -> Iterator[None]:
    """Sessions of this repository find their base, and then wait before they write."""
    real = repository.session

    @contextmanager
    def slow(vm: VmId, check: WriteCheck = "full") -> Iterator[tuple[WriteSession, RestorePoint | None]]:
        with real(vm, check) as opened_session:
            begun.set()
            go_on.wait()
            yield opened_session

    with patch.object(repository, "session", slow):
        yield


def test_a_writer_that_opens_while_a_list_stands_does_not_rely_on_it(
    repository: Repository, root: Path, workers: SpanWorkers
) -> None:
    disk = Memory(noise(1, MIB))
    gone = back_up(repository, disk, workers, name="gone")
    with opened(root) as elsewhere:
        with elsewhere.session(image_id("early")):
            forget(repository, gone)
            assert collect(repository, wait=False).waiting_for
            with opened(root) as third:
                late = back_up(third, disk, workers, name="late")
        collect(repository)
        assert content(repository, late) == disk.content


def test_nothing_is_built_on_a_condemned_point_that_was_pinned_too_late(
    repository: Repository, root: Path, workers: SpanWorkers
) -> None:
    disk = Memory(noise(1, MIB))
    point = back_up(repository, disk, workers)
    with opened(root) as elsewhere:
        with elsewhere.session(image_id("early")):
            forget(repository, point)
            assert collect(repository, wait=False).waiting_for
            repository.marks.pin(point.id, "after all")
            with opened(root) as third, third.session(image_id("vm")) as (_, base):
                assert base is None
        collect(repository)
    assert content(repository, point) == disk.content, "the pin was there before the second look"


def test_a_dead_writer_is_fenced_at_once(repository: Repository, root: Path, workers: SpanWorkers) -> None:
    gone = back_up(repository, Memory(noise(1, MIB)), workers)
    back_up(repository, Memory(noise(2, MIB)), workers)
    script = (
        "import os, sys; from pathlib import Path; from support.repositories import opened;"
        "from offhost.ids import image_id\n"
        f"with opened(Path({str(root)!r})) as repository, repository.session(image_id('dies')):\n"
        "    os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", script], env={"PYTHONPATH": ":".join(sys.path)}, check=False)
    forget(repository, gone)
    done = collect(repository)
    assert len(done.fenced) == 1
    assert done.swept.packs == 1
    assert not list((root / "sessions").iterdir())


class HandClock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        self.seconds += 600
        return self.seconds


def test_a_writer_that_was_silent_too_long_is_fenced_and_cannot_commit(
    repository: Repository, root: Path, workers: SpanWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = back_up(repository, Memory(noise(1, MIB)), workers)
    back_up(repository, Memory(noise(2, MIB)), workers)
    forget(repository, gone)
    with opened(root) as elsewhere, elsewhere.session(image_id("silent")) as (session, _):
        monkeypatch.setattr(repository, "clock", HandClock())
        done = collect(repository)
        assert len(done.fenced) == 1
        with pytest.raises(SessionFenced):
            session.commit(point_of(session, "silent"))
    assert {point.vm_name for point in repository.points.all()} == {"vm"}


def test_a_point_that_does_not_open_blocks_until_it_is_forgotten_by_its_id(
    repository: Repository, root: Path, workers: SpanWorkers
) -> None:
    first = back_up(repository, Memory(noise(1, MIB)), workers)
    second = back_up(repository, Memory(noise(2, MIB)), workers)
    damaged = next(path for path in (root / "points").rglob(second.id))
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    forget(repository, first)
    before = packs_of(root)
    with pytest.raises(CollectionBlocked, match=second.id[:12]) as caught:
        collect(repository)
    assert caught.value.hint
    assert second.id in caught.value.hint
    assert packs_of(root) == before
    forget(repository, second)
    collect(repository)
    assert not packs_of(root)


def test_a_map_that_cannot_be_resolved_blocks(repository: Repository, root: Path, workers: SpanWorkers) -> None:
    gone = back_up(repository, Memory(noise(1, MIB)), workers, name="gone")
    harmed = back_up(repository, Memory(noise(2, MIB)), workers, name="harmed")
    forget(repository, gone)
    leaf = repository.restore_point(harmed).map(harmed.disks[0]).leaf(0)
    assert leaf is not None
    at = repository.store.index.copies(leaf)[0]
    pack = root / "packs" / at.pack[:2] / at.pack
    data = bytearray(pack.read_bytes())
    data[at.offset] ^= 1
    pack.chmod(0o600)
    pack.write_bytes(data)
    before = packs_of(root)
    with opened(root) as fresh, pytest.raises(CollectionBlocked, match="harmed"):
        collect(fresh)
    assert packs_of(root) == before


def test_a_damaged_pack_is_kept_while_it_is_needed_and_its_mark_goes_with_it(
    repository: Repository, root: Path, workers: SpanWorkers
) -> None:
    disk = bytearray(noise(1, 4 * MIB))
    first = back_up(repository, Memory(disk), workers)
    (pack,) = packs_of(root)
    disk[MIB:] = noise(2, 3 * MIB)
    second = back_up(repository, Memory(disk), workers)
    repository.marks.damage(pack, frozenset([0]), "found by hand")
    forget(repository, first)
    collect(repository)
    assert pack in packs_of(root), "what is left of it must not be moved: nobody knows how it was damaged"
    assert content(repository, second) == bytes(disk)
    third = back_up(repository, Memory(noise(3, MIB)), workers)
    forget(repository, second)
    collect(repository)
    assert pack not in packs_of(root)
    assert not list((root / "marks").iterdir())
    assert content(repository, third) == noise(3, MIB)


def test_a_swept_pack_that_comes_back_stays_dead(repository: Repository, root: Path, workers: SpanWorkers) -> None:
    disk = Memory(noise(1, MIB))
    gone = back_up(repository, disk, workers, name="gone")
    back_up(repository, Memory(noise(2, MIB)), workers, name="kept")
    saved = {path: path.read_bytes() for path in (root / "packs").rglob("*") if path.is_file()}
    forget(repository, gone)
    collect(repository)
    for path, data in saved.items():
        path.write_bytes(data)  # as from a writer that was suspended all the while
    with opened(root) as fresh:
        again = back_up(fresh, disk, workers, name="again")
        collect(fresh)
        assert content(fresh, again) == disk.content
        assert len(packs_of(root)) == 2


def test_a_flag_that_only_a_newer_collector_knows_keeps_this_one_out(
    repository: Repository, root: Path, workers: SpanWorkers
) -> None:
    forget(repository, back_up(repository, Memory(noise(1, MIB)), workers))
    name = "config/00000002"
    value = repository.config.value | {"collect": ["tiers"]}
    repository.backend.put(name, seal_json(repository.keyring, ObjectType.CONFIG, name, value))
    before = files_below(root)
    with pytest.raises(FormatTooNew, match="tiers"):
        collect(repository)
    assert files_below(root) == before


def test_collectors_at_once_do_no_harm(root: Path, workers: SpanWorkers) -> None:
    with opened(root) as repository:
        points = [back_up(repository, Memory(noise(seed, MIB)), workers, name=f"vm{seed}") for seed in range(6)]
        forget(repository, *points[::2])

    def one(_: int) -> Collected:
        with opened(root) as mine:
            return collect(mine)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(one, range(4)))
    with opened(root) as repository:
        assert {point.id for point in repository.points.all()} == {point.id for point in points[1::2]}
        for seed in range(1, 6, 2):
            assert content(repository, points[seed]) == noise(seed, MIB)
        assert stored_bytes(root) < 3.5 * MIB


def test_damage_that_is_met_while_moving_is_marked_and_the_pack_kept(
    repository: Repository, root: Path, workers: SpanWorkers
) -> None:
    old = noise(1, 4 * MIB)
    first = back_up(repository, Memory(old), workers)
    (pack,) = packs_of(root)
    second = back_up(repository, Memory(old[:MIB] + noise(2, 3 * MIB)), workers)
    chunk = repository.restore_point(second).map(second.disks[0]).span(0).ids[0].tobytes()
    at = repository.store.index.copies(ChunkId(chunk))[0]
    path = root / "packs" / pack[:2] / pack
    data = bytearray(path.read_bytes())
    data[at.offset] ^= 1
    path.write_bytes(data)
    forget(repository, first)
    collect(repository)
    assert pack in packs_of(root)
    assert repository.marks.damaged() == {pack: frozenset([at.slot])}
    lists = len(list((root / "condemned").iterdir()))
    collect(repository)
    assert len(list((root / "condemned").iterdir())) == lists, "what must be kept is not condemned again and again"


def test_a_point_that_stays_open_is_not_condemned_again_and_again(
    repository: Repository, root: Path, workers: SpanWorkers
) -> None:
    point = back_up(repository, Memory(noise(1, MIB)), workers)
    back_up(repository, Memory(noise(2, MIB)), workers)
    with opened(root) as elsewhere, elsewhere.reading(point):
        forget(repository, point)
        for _ in range(3):
            collect(repository)
        assert not list((root / "condemned").iterdir())
    assert collect(repository).swept.points == 1


def test_pins_that_were_taken_off_or_whose_point_is_gone_go_with_a_collection(
    repository: Repository, root: Path, workers: SpanWorkers
) -> None:
    first = back_up(repository, Memory(noise(1, 1000)), workers)
    second = back_up(repository, Memory(noise(2, 1000)), workers)
    repository.marks.unpin(repository.marks.pin(first.id, "for a while"))
    kept = repository.marks.pin(second.id, "for good")
    forget(repository, first)
    collect(repository)
    assert [path.name for path in (root / "marks").iterdir()] == [f"pin-{kept.id}"]
    assert repository.marks.pins() == [kept]


def test_without_room_to_move_anything_what_is_wholly_dead_goes(root: Path, workers: SpanWorkers) -> None:
    half_needed = noise(1, 4 * MIB)
    with opened(root) as repository:
        first = back_up(repository, Memory(half_needed), workers, name="half")
        gone = back_up(repository, Memory(noise(3, MIB)), workers, name="gone")
        second = back_up(repository, Memory(half_needed[:MIB] + noise(2, MIB)), workers, name="half")
        forget(repository, first, gone)
    with opened(root) as full:
        tight = FaultyBackend(LocalBackend(root), budget_bytes=100_000)
        with closing(Repository(tight, full.keyring)) as repository:
            done = collect(repository)
            assert (done.swept.packs, done.rewritten_bytes) == (1, 0)
            assert content(repository, second) == half_needed[:MIB] + noise(2, MIB)
        before = stored_bytes(root)
        assert collect(full).rewritten_bytes >= MIB // 2
        assert stored_bytes(root) < before - 2 * MIB
        assert content(full, second) == half_needed[:MIB] + noise(2, MIB)


def test_a_reader_whose_process_lives_is_spared_however_the_clock_jumps(
    repository: Repository, root: Path, workers: SpanWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = back_up(repository, Memory(noise(1, MIB)), workers)
    with opened(root) as elsewhere, elsewhere.reading(point) as held:
        forget(repository, point)
        clock = HandClock()
        clock.seconds = 1e9
        monkeypatch.setattr(repository, "clock", clock)
        collect(repository)
        buffer = bytearray(MIB)
        held.disk().read_into(0, memoryview(buffer))
        assert bytes(buffer) == noise(1, MIB)


def abort(repository: Repository, times: int) -> None:
    """Sessions that make no point, each of which leaves a tombstone."""
    for _ in range(times):
        with repository.session(image_id("vm")):
            pass


def test_tombstones_go_with_a_collection_or_when_there_are_many(
    root: Path, workers: SpanWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(root) as repository:
        abort(repository, 3)
        kept = back_up(repository, Memory(noise(1, MIB)), workers)
        assert collect(repository).generation is None, "so few are not worth waiting for writers"
        gone = back_up(repository, Memory(noise(2, MIB)), workers, name="other")
        forget(repository, gone)
        done = collect(repository)
        assert done.swept.points == 1
        assert repository.points.ids() == {kept.id}
        abort(repository, 3)
        monkeypatch.setattr("offhost.repository.collection.collect._TOMBSTONES_WORTH_A_LIST", 3)
        assert collect(repository).generation == "00000002"
        assert repository.points.ids() == {kept.id}
        assert not list((root / "sessions").iterdir())
        assert content(repository, kept) == noise(1, MIB)


def test_a_mark_of_a_point_that_somebody_has_deleted_goes_and_the_point_stays_dead(
    repository: Repository, root: Path, workers: SpanWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("offhost.repository.collection.collect._TOMBSTONES_WORTH_A_LIST", 1)
    gone = back_up(repository, Memory(noise(1, MIB)), workers)
    collect(repository)
    (path,) = (root / "points").glob(f"*/{gone.id}")
    data = path.read_bytes()
    forget(repository, gone)
    path.unlink()
    collect(repository)
    assert not list((root / "marks").iterdir())
    path.write_bytes(data)
    assert repository.points.all() == []


def test_a_writer_whose_tombstone_was_swept_is_fenced_all_the_same(
    repository: Repository, root: Path, workers: SpanWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It slept for long: somebody ended it, and somebody else cleared away what it was ended by."""
    monkeypatch.setattr("offhost.repository.collection.collect._TOMBSTONES_WORTH_A_LIST", 1)
    with opened(root) as sleeper, sleeper.session(image_id("vm")) as (session, _):
        fence(repository.backend, repository.keyring, _only(repository))
        assert collect(repository).generation is not None
        assert repository.points.ids() == frozenset()
        with pytest.raises(SessionFenced):
            session.commit(point_of(session, "vm"))
    assert repository.points.all() == []


def _only(repository: Repository) -> Session:
    (writer,) = attendance(repository.backend, repository.keyring, ()).writers.values()
    return writer
