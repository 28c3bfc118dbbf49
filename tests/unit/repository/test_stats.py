"""The figures of `repo stats`, held against a count that is slow and plain."""

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import blake3
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from offhost.chunking.compress import Codec
from offhost.chunking.spans import SPAN_BYTES, ChunkRef, CompressedChunk, SpanMap
from offhost.chunking.workers import SpanWorkers
from offhost.ids import ChunkId, DiskKey, SessionId, VmId, image_id
from offhost.repository.chunks.packs import Kind
from offhost.repository.collection.collect import Collector
from offhost.repository.points.leaves import Patch, decode
from offhost.repository.points.manifest import Manifest, PointDisk
from offhost.repository.points.restorepoint import RestorePoint
from offhost.repository.repository import Repository
from offhost.repository.session import WriteSession
from offhost.repository.statistics.growth import Growth, growth
from offhost.repository.statistics.stats import Collectable, Stats, stats
from support.repositories import Memory, back_up, make, noise, opened, point_of

DISK = DiskKey("disk0")


def chunk(repository: Repository, number: int) -> CompressedChunk:
    """A small chunk of content that is another for each number."""
    plain = number.to_bytes(4, "little") * (100 + number)
    identity = ChunkId(blake3.blake3(plain, key=repository.keyring.id_key).digest())
    return CompressedChunk(identity, Codec.RAW, len(plain), plain, memoryview(plain))


def commit(repository: Repository, vm: str, spans: list[list[int]]) -> Manifest:
    """A point whose disk has these chunks in its spans, one after the other."""
    with repository.session(image_id(vm)) as (session, base):
        return store(repository, session, vm, spans, base)


def store(
    repository: Repository, session: WriteSession, vm: str, spans: list[list[int]], base: RestorePoint | None = None
) -> Manifest:
    known = base.map(base.manifest.disks[0]) if base else None
    writer = session.map_writer(len(spans) * SPAN_BYTES, "page-1", known)
    for span, numbers in enumerate(spans):
        refs = []
        for place, number in enumerate(numbers):
            one = chunk(repository, number)
            if session.missing([one.id], [one.plain_bytes]):
                session.put([one])
            refs.append(ChunkRef(place * 4096, one.plain_bytes, one.id))
        writer.set(span, SpanMap.of(refs))
    sequence = base.manifest.sequence + 1 if base else 1
    disks = (PointDisk(DISK, "disk", writer.finish()),)
    return session.commit(point_of(session, vm, sequence=sequence, disks=disks))


def needs(repository: Repository, point: Manifest) -> set[ChunkId]:
    """Every chunk of every kind that a point needs, found by reading its map leaf by leaf."""
    disk = point.disks[0]
    found = set(disk.map.pages)
    stored = repository.restore_point(point).map(disk)
    for span in range(len(stored)):
        found.update(ref.id for ref in stored.span(span))
        leaf = stored.leaf(span)
        while leaf:
            found.add(leaf)
            decoded = decode(repository.reader.read_one(leaf, Kind.LEAF))
            leaf = decoded.parent if isinstance(decoded, Patch) else None
    return found


def check(repository: Repository, counted: Stats) -> None:
    """Hold the figures against sets of ids."""
    points = repository.points.all()
    needed = {point.id: needs(repository, point) for point in points}
    places = {
        one: repository.store.index.look_up([one])[0] for one in set().union(*needed.values())
    }  # fmt: skip
    objects = {item.name.rpartition("/")[2]: item.size_bytes for item in repository.backend.list("points/")}

    def stored(chunks: set[ChunkId], kind: Kind | None = None) -> int:
        found = [place for one in chunks if (place := places[one])]
        return sum(place.stored for place in found if kind in (None, place.kind))

    for each in counted.by_point:
        others = set().union(*(ids for point, ids in needed.items() if point != each.point))
        assert each.frees_bytes == stored(needed[SessionId(each.point)] - others) + objects[each.point]
    for vm in counted.by_vm:
        own = [point.id for point in points if point.vm_id == vm.vm_id]
        others = set().union(*(ids for point, ids in needed.items() if point not in own))
        mine = set().union(*(needed[point] for point in own))
        assert vm.frees_bytes == stored(mine - others) + sum(objects[point] for point in own)
    everything = set(places)
    content = [place for place in places.values() if place and place.kind == Kind.CONTENT]
    assert counted.chunks == len(content)
    assert counted.unique_bytes == sum(place.plain for place in content)
    assert counted.storage.content_bytes == stored(everything, Kind.CONTENT)
    assert counted.storage.leaves_bytes == stored(everything, Kind.LEAF)
    assert counted.storage.list_pages_bytes == stored(everything, Kind.PAGE)
    assert counted.plain_bytes == sum(point.disks[0].map.data_bytes for point in points)


def files_bytes(root: Path) -> int:
    folders = [folder for folder in root.iterdir() if folder.name != "tmp"]
    return sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file())


disks = st.lists(st.lists(st.integers(0, 12), min_size=0, max_size=8), min_size=1, max_size=3)
histories = st.lists(st.tuples(st.sampled_from(["one", "two", "three"]), disks), min_size=1, max_size=8)


@pytest.mark.slow
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(histories, st.data())
def test_the_figures_are_those_of_a_count_by_hand(
    tmp_path_factory: pytest.TempPathFactory, history: list[tuple[str, list[list[int]]]], data: st.DataObject
) -> None:
    root = make(tmp_path_factory.mktemp("stats") / "repository")
    with opened(root) as repository:
        points = [commit(repository, vm, spans) for vm, spans in history]
        check(repository, stats(repository))
        for point in data.draw(st.lists(st.sampled_from(points), unique_by=lambda point: point.id)):
            repository.marks.forget(point.id, "a test")
        counted = stats(repository)
        check(repository, counted)
        assert counted.stored_bytes == files_bytes(root)
        parts = [getattr(counted.storage, name) for name in counted.storage.__slots__]
        assert sum(parts) == counted.stored_bytes
        assert min(parts) >= 0


def test_long_chains_of_patches_belong_to_all_points_that_stand_on_them(repository: Repository) -> None:
    """No two points have a leaf in common, but each stands on those before it, forgotten ones among them."""
    numbers = list(range(40))
    points = []
    for day in range(19):
        numbers[day] = 100 + day
        points.append(commit(repository, "vm", [numbers]))
    counted = stats(repository)
    check(repository, counted)
    assert counted.storage.unneeded_bytes == 0
    assert counted.storage.leaves_bytes < 10_000, "no patches: nothing is tried here"
    for point in points[::3]:
        repository.marks.forget(point.id, "a test")
    counted = stats(repository)
    check(repository, counted)
    assert counted.storage.unneeded_bytes > 0


def test_what_forgotten_points_held_is_not_missed_after_a_collection(repository: Repository) -> None:
    """Leaves stand on leaves of forgotten points, whose other chunks are gone for good."""
    numbers = list(range(40))
    points = []
    for day in range(12):
        numbers[day % 3] = 100 + day
        points.append(commit(repository, "vm", [numbers]))
    for point in points[:-1]:
        repository.marks.forget(point.id, "a test")
    Collector(repository, threading.Event()).run()
    counted = stats(repository)
    check(repository, counted)
    assert counted.missing_chunks == 0
    assert counted.unreadable == ()
    assert counted.collectable == Collectable(0, 0, 0, 0)


def test_chunks_that_are_in_no_pack_are_counted(root: Path) -> None:
    with opened(root) as repository:
        commit(repository, "one", [[1, 2, 3]])
    (lost,) = (path for path in (root / "packs").rglob("*") if path.is_file())
    with opened(root) as repository:
        commit(repository, "two", [[3, 1, 2]])
    lost.unlink()
    with opened(root) as repository:
        counted = stats(repository)
    assert counted.missing_chunks == 3, "of the second VM: all that it has in common with the first"
    assert len(counted.unreadable) == 1
    assert counted.unreadable[0].startswith("one, disk disk0: ")
    assert counted.collectable is None


def test_forgetting_one_point_frees_what_was_said_it_would(repository: Repository) -> None:
    """What only a forgotten point needed is what the packs hold in vain afterwards."""
    for content in ([[1, 2, 3]], [[1, 2, 4, 50]], [[1, 2, 4, 5]]):
        commit(repository, "vm", content)
    before = stats(repository)
    middle = before.by_point[1]
    repository.marks.forget(SessionId(middle.point), "a test")
    after = stats(repository)
    freed = after.storage.unneeded_bytes - before.storage.unneeded_bytes
    size = next(item.size_bytes for item in repository.backend.list("points/") if item.name.endswith(middle.point))
    assert freed == middle.frees_bytes - size > 0


def test_a_forgotten_vm_is_what_a_collection_would_free(repository: Repository, workers: SpanWorkers) -> None:
    back_up(repository, Memory(noise(1, 3_000_000)), workers, name="gone")
    back_up(repository, Memory(noise(2, 3_000_000)), workers, name="stays")
    gone = next(vm for vm in stats(repository).by_vm if vm.vm == "gone")
    for point in repository.points.of(VmId(gone.vm_id)):
        repository.marks.forget(point.id, "a test")
    collectable = stats(repository).collectable
    assert collectable
    assert collectable.packs == 1
    assert gone.frees_bytes < collectable.bytes < gone.frees_bytes + 10_000  # the pack's directory comes with it


def test_a_disk_that_cannot_be_read_is_named_and_nothing_is_promised(root: Path, workers: SpanWorkers) -> None:
    with opened(root) as repository:
        point = back_up(repository, Memory(noise(1, 300_000)), workers)
    for pack in (root / "packs").rglob("*"):
        if pack.is_file():
            pack.chmod(0o600)
            data = np.frombuffer(pack.read_bytes(), np.uint8).copy()
            data[100:-400] ^= 1
            pack.write_bytes(data.tobytes())
    with opened(root) as repository:
        counted = stats(repository)
    assert counted.points == 1
    assert len(counted.unreadable) == 1
    assert "vm, disk disk0" in counted.unreadable[0]
    assert counted.collectable is None
    assert counted.plain_bytes == point.disks[0].map.data_bytes


def test_a_rotten_local_index_is_learnt_again(root: Path, workers: SpanWorkers, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    with opened(root, cache) as repository:
        back_up(repository, Memory(noise(1, 2_000_000)), workers)
    with opened(root, cache) as repository:
        before = stats(repository)
    with opened(root, cache) as repository:
        for path in cache.rglob("*.seg"):
            path.chmod(0o600)
            with path.open("r+b") as file:
                size = path.stat().st_size
                file.seek(size // 2)
                file.write(b"rotten")
        assert stats(repository) == before


def test_a_second_copy_of_a_chunk_is_not_needed_and_frees_with_the_first(root: Path) -> None:
    """Two processes that store the same at one time store it twice."""
    with (
        opened(root) as here,
        opened(root) as there,
        here.session(image_id("one")) as (one, _),
        there.session(image_id("two")) as (two, _),
    ):
        store(here, one, "one", [[1, 2, 3]])
        store(there, two, "two", [[1, 2, 3], [4]])
    with opened(root) as repository:
        twice = stats(repository)
        check(repository, twice)
        chunks = {chunk(repository, number).id for number in (1, 2, 3)}
        copies = [place for one_id in chunks for place in repository.store.index.copies(one_id)]
        assert len(copies) == 6
        assert twice.storage.unneeded_bytes >= sum(place.stored for place in copies) // 2
        for point in repository.points.of(image_id("two")):
            repository.marks.forget(point.id, "a test")
        (left,) = stats(repository).by_point
        assert left.frees_bytes >= sum(place.stored for place in copies)


def test_an_empty_repository_has_figures(repository: Repository) -> None:
    counted = stats(repository)
    assert (counted.points, counted.plain_bytes, counted.deduplication, counted.saving) == (0, 0, None, 0.0)
    assert counted.stored_bytes == counted.storage.other_bytes > 0


def test_the_count_can_be_stopped(repository: Repository) -> None:
    commit(repository, "vm", [[1]])

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stats(repository, stop)


def test_a_point_says_what_its_run_stored(repository: Repository, workers: SpanWorkers) -> None:
    one = back_up(repository, Memory(noise(1, 500_000)), workers)
    two = back_up(repository, Memory(noise(1, 500_000)), workers)
    assert one.totals["stored_bytes"] > 500_000
    assert two.totals["stored_bytes"] < 1000
    counted = stats(repository)
    assert [point.stored_bytes for point in counted.by_point] == [
        one.totals["stored_bytes"],
        two.totals["stored_bytes"],
    ]


def test_growth_names_days_iso_weeks_and_months_in_utc() -> None:
    times = [datetime(2024, 12, 31, 23, 0, tzinfo=UTC) + timedelta(hours=hours) for hours in (0, 2)]
    points = [*zip(times, (10, 5), strict=True), (times[0], None)]
    assert growth(points, "day") == [Growth("2024-12-31", 2, 10), Growth("2025-01-01", 1, 5)]
    assert growth(points, "week") == [Growth("2025-W01", 3, 15)]
    assert growth(points, "month") == [Growth("2024-12", 2, 10), Growth("2025-01", 1, 5)]
