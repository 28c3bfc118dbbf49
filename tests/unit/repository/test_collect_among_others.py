"""A collection among others at work in the repository, and on storage that fails for a moment."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path

import pytest

from offhost.backend.contract import ObjectInfo
from offhost.backend.local import LocalBackend
from offhost.chunking.workers import SpanWorkers
from offhost.errors import IntegrityError, Unavailable
from offhost.ids import image_id
from offhost.repository.collection.collect import Collector
from offhost.repository.objects.graves import Verdict
from offhost.repository.objects.sealed import ObjectType, seal_json
from offhost.repository.repository import Repository
from support.repositories import Memory, back_up, content, noise, opened

MIB = 1 << 20


def collector(repository: Repository) -> Collector:
    return Collector(repository, threading.Event(), look_again_s=0.01)


def condemn(repository: Repository, *packs: str) -> None:
    """As a collector does that is stopped then."""
    decide(repository, ObjectType.CONDEMNED, "condemned/00000001", *packs)


def decide(repository: Repository, kind: ObjectType, name: str, *packs: str) -> None:
    value = Verdict(frozenset(packs)).to_json()
    repository.backend.put(name, seal_json(repository.keyring, kind, name, value))


def packs_of(root: Path) -> set[str]:
    return {path.name for path in (root / "packs").rglob("*") if path.is_file()}


def before_listing(
    repository: Repository, prefix: str, do: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Have something happen before each listing of a prefix, told which it is."""
    backend, numbers = repository.backend, count()
    listing = backend.list

    def listed(wanted: str) -> Iterator[ObjectInfo]:
        if wanted == prefix:
            do(next(numbers))
        return listing(wanted)

    monkeypatch.setattr(backend, "list", listed)


def fail_at_first(repository: Repository, pack: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the first look at a pack fail, and no other."""
    measure, looks = repository.backend.size, count()

    def size(name: str) -> int:
        if name.endswith(pack) and not next(looks):
            raise Unavailable(f"{name}: Input/output error")
        return measure(name)

    monkeypatch.setattr(repository.backend, "size", size)


def failing_for(prefix: str, get: Callable[[str, int], bytes]) -> Callable[[str, int], bytes]:
    def failing(name: str, limit_bytes: int) -> bytes:
        if name.startswith(prefix):
            raise Unavailable(f"{name}: Input/output error")
        return get(name, limit_bytes)

    return failing


@pytest.mark.parametrize("when", range(5))
def test_a_point_that_another_process_puts_meanwhile_stops_no_collection(
    when: int, root: Path, workers: SpanWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(root) as one, opened(root) as other:
        gone = back_up(one, Memory(noise(1, MIB)), workers, name="gone")
        one.marks.forget(gone.id, "by hand")

        def meanwhile(number: int) -> None:
            if number == when:
                back_up(other, Memory(noise(2, MIB)), workers, name="new")

        before_listing(one, "points/", meanwhile, monkeypatch)
        done = collector(one).run()
        monkeypatch.undo()
        assert done.swept.packs == 1
        one.refresh()
        for point in one.points.all():
            assert content(one, point) == noise(2, MIB)


@pytest.mark.parametrize("again", [False, True], ids=["all of a point", "content alone"])
def test_what_could_not_be_read_for_a_moment_is_not_taken_for_what_nobody_needs(
    again: bool, root: Path, workers: SpanWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pack in no index run is not read when the collector lists the packs, but is when it looks at it once more."""
    disk = Memory(noise(1, MIB))
    with opened(root) as repository:
        point = back_up(repository, disk, workers)
        (pack,) = packs_of(root)
        if again:  # its map lies in another pack then
            repository.marks.forget(point.id, "by hand")
            disk.content += disk.content[: MIB // 2]
            point = back_up(repository, disk, workers, name="another")
        repository.marks.damage("ab" * 32, None, "lost long ago")
        condemn(repository, pack)
        keyring = repository.keyring
    for run in (root / "index").iterdir():
        run.unlink()
    with Repository(LocalBackend(root), keyring) as collecting:
        fail_at_first(collecting, pack, monkeypatch)
        assert not collector(collecting).run().swept.packs
    with opened(root) as fresh:
        assert content(fresh, point) == disk.content


def test_a_reader_who_misses_a_verdict_has_no_writer_beside_it_rely_on_what_is_going(
    repository: Repository, root: Path, workers: SpanWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    back_up(repository, Memory(noise(1, MIB)), workers, name="going")
    (pack,) = packs_of(root)
    read = back_up(repository, Memory(noise(2, MIB)), workers, name="read")
    chunks = list(repository.store.index.chunks_of(pack))
    condemn(repository, pack)
    with repository.session(image_id("vm")) as (session, _):
        decide(repository, ObjectType.SWEEP, "sweeps/00000001", pack)
        monkeypatch.setattr(repository.backend, "get", failing_for("sweeps/", repository.backend.get))
        with repository.reading(read):
            pass
        monkeypatch.undo()
        assert len(session.missing(chunks, [1] * len(chunks))) == len(chunks)


@pytest.mark.parametrize("how", ["pinned", "being read"])
def test_a_point_that_was_held_before_it_was_condemned_is_not_swept(
    repository: Repository, root: Path, workers: SpanWorkers, how: str
) -> None:
    """The collector looked for who holds it before that, and put its list after."""
    point = back_up(repository, Memory(noise(1, MIB)), workers)
    with ExitStack() as holding:
        if how == "pinned":
            repository.marks.pin(point.id, "evidence")
        else:
            holding.enter_context(repository.reading(point))
        repository.marks.forget(point.id, "expired")
        listed = Verdict(frozenset(packs_of(root)), frozenset([point.id])).to_json()
        name = "condemned/00000001"
        repository.backend.put(name, seal_json(repository.keyring, ObjectType.CONDEMNED, name, listed))
        collector(repository).run()
        assert repository.graveyard.read().swept_points == frozenset()
        assert content(repository, point) == noise(1, MIB)


def test_nothing_is_built_on_while_it_cannot_be_told_what_is_swept(repository: Repository, root: Path) -> None:
    (root / "sweeps" / "00000001").write_bytes(b"garbage")
    assert repository.points.all() == []
    with pytest.raises(IntegrityError):
        repository.points.latest(image_id("vm"))


def test_a_pack_whose_directory_is_rotten_is_not_condemned_night_after_night(
    repository: Repository, root: Path, workers: SpanWorkers
) -> None:
    gone = back_up(repository, Memory(noise(1, MIB)), workers)
    (pack,) = (path for path in (root / "packs").rglob("*") if path.is_file())
    repository.marks.forget(gone.id, "by hand")
    hurt = bytearray(pack.read_bytes())
    hurt[-30] ^= 1
    pack.write_bytes(hurt)
    for _ in range(2):
        with opened(root) as fresh:
            assert not collector(fresh).run().swept.packs
    assert len(list((root / "condemned").iterdir())) == 1
    assert pack.exists()


def test_what_is_said_to_be_kept_is_what_the_sweep_leaves_that_came_first(
    root: Path, workers: SpanWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(root) as repository:
        kept = back_up(repository, Memory(noise(1, MIB)), workers, name="kept")
        (needed,) = packs_of(root)
        gone = back_up(repository, Memory(noise(2, MIB)), workers, name="gone")
        (dead,) = packs_of(root) - {needed}
        repository.marks.forget(gone.id, "by hand")
        condemn(repository, dead, needed)
        put = repository.backend.put

        def beaten(name: str, data: bytes) -> None:
            if name.startswith("sweeps/"):
                monkeypatch.undo()
                decide(repository, ObjectType.SWEEP, name)  # of a collector that could read neither directory
            put(name, data)

        monkeypatch.setattr(repository.backend, "put", beaten)
        done = collector(repository).run()
        assert done.spared_packs == 2
        assert packs_of(root) >= {needed, dead}
        assert content(repository, kept) == noise(1, MIB)


def test_a_process_that_lives_long_remembers_no_points_and_marks_that_others_collected(
    root: Path, workers: SpanWorkers
) -> None:
    with opened(root) as daemon, opened(root) as other:
        gone = back_up(other, Memory(noise(1, MIB)), workers)
        assert daemon.points.latest(gone.vm_id) == gone
        other.marks.forget(gone.id, "expired")
        assert daemon.points.latest(gone.vm_id) is None
        collector(other).run()
        kept = back_up(other, Memory(noise(2, MIB)), workers)
        assert daemon.points.latest(kept.vm_id) == kept
        remembered = repr(vars(daemon.points)["_orders"]) + repr(daemon.marks)
        assert remembered.count(kept.id) > 0
        assert gone.id not in remembered
