"""What copying from one repository to another promises: the same points, whatever keys and cuts, and nothing twice."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from offhost.backup.copy import settle
from offhost.backup.destination import Destination
from offhost.backup.replica import DiskReplica
from offhost.backup.replication import Replication
from offhost.chunking.spans import SPAN_BYTES
from offhost.chunking.workers import SpanWorkers
from offhost.errors import Stopped, UsageError
from offhost.extents import Extent, ExtentMap
from offhost.ids import image_id
from offhost.repository.chunks.packs import pack_object
from offhost.repository.points.manifest import Manifest
from offhost.repository.points.restorepoint import PointDiskReader
from offhost.repository.repository import Repository
from offhost.repository.statistics.stats import stats
from support.replicas import copy_all, nobody, replicating, replication, states, the_copy
from support.repositories import Memory, back_up, content, make, noise, point_of

SMALL = 3 << 20


@pytest.fixture
def copier(tmp_path: Path, workers: SpanWorkers) -> Iterator[Replication]:
    with replicating(make(tmp_path / "source"), make(tmp_path / "destination"), workers) as copier:
        yield copier


def changed(copier: Replication, disk: Memory, workers: SpanWorkers, at: int, seed: int) -> Manifest:
    """Write 100 kB at an offset, and back up."""
    disk.content[at : at + 100_000] = noise(seed, 100_000)
    return back_up(copier.source, disk, workers, areas=ExtentMap([Extent(at, at + 100_000)]))


def test_a_copy_is_the_point(copier: Replication, workers: SpanWorkers) -> None:
    disk = Memory(noise(1, SMALL) + bytes(SPAN_BYTES) + noise(2, 12345))
    point = back_up(copier.source, disk, workers)
    (done,) = copy_all(copier)
    copy = the_copy(copier, point)
    assert content(copier.destination.repository, copy) == disk.content
    assert (done.state, done.point, done.copy) == ("copied", point.id, copy.id)
    assert copy.id != point.id
    assert (copy.vm_id, copy.vm_name, copy.time, copy.kind) == (point.vm_id, point.vm_name, point.time, point.kind)
    assert copy.origin["repository"] == copier.source.config.repository_id.hex()
    assert (copy.origin["point"], copy.origin["of"]) == (point.id, point.origin)


def test_of_the_second_point_only_what_changed_is_read_and_stored(copier: Replication, workers: SpanWorkers) -> None:
    disk = Memory(noise(1, SMALL))
    back_up(copier.source, disk, workers)
    copy_all(copier)
    point = changed(copier, disk, workers, 1_000_000, seed=2)
    (done,) = copy_all(copier)
    assert content(copier.destination.repository, the_copy(copier, point)) == disk.content
    assert done.read_bytes < SMALL / 2
    assert done.new_bytes < 1_000_000
    assert done.notes == ()


def test_what_was_copied_is_not_copied_again(copier: Replication, workers: SpanWorkers) -> None:
    disk = Memory(noise(1, SMALL))
    back_up(copier.source, disk, workers)
    assert states(copy_all(copier)) == ["copied"]
    assert copy_all(copier) == []
    assert copier.copy(copier.source.points.all()[0]).state == "there"
    assert len(copier.destination.repository.points.all()) == 1


@pytest.mark.slow
def test_all_points_are_copied_oldest_first_and_stand_in_their_order(copier: Replication, workers: SpanWorkers) -> None:
    disk = Memory(noise(0, SMALL))
    points = [back_up(copier.source, disk, workers)]
    points += [changed(copier, disk, workers, seed * 200_000, seed) for seed in range(1, 5)]
    assert [done.point for done in copy_all(copier)] == [point.id for point in points]
    copies = copier.destination.repository.points.all()
    assert [copy.time for copy in copies] == [point.time for point in points]
    assert [copy.sequence for copy in copies] == [1, 2, 3, 4, 5]
    assert [copy.predecessor.id if copy.predecessor else None for copy in copies] == [
        None,
        *(copy.id for copy in copies[:-1]),
    ]
    assert stats(copier.destination.repository).unique_bytes <= stats(copier.source).unique_bytes * 1.2


def test_a_repository_is_not_copied_into_itself(tmp_path: Path, workers: SpanWorkers) -> None:
    root = make(tmp_path / "one")
    with pytest.raises(UsageError, match="itself"), replicating(root, root, workers):
        pass


@pytest.mark.slow
def test_copies_can_go_round(copier: Replication, workers: SpanWorkers, tmp_path: Path) -> None:
    disk = Memory(noise(1, SMALL))
    point = back_up(copier.source, disk, workers)
    copy_all(copier)
    with replicating(tmp_path / "destination", tmp_path / "source", workers) as back:
        assert copy_all(back) == []
    with replicating(tmp_path / "destination", make(tmp_path / "third"), workers) as onwards:
        assert states(copy_all(onwards)) == ["copied"]
        with replicating(tmp_path / "source", tmp_path / "third", workers) as direct:
            assert copy_all(direct) == []
            changed(replication(direct.source, onwards.source, workers), disk, workers, 0, seed=2)
            (done,) = copy_all(direct)
        assert done.read_bytes < SMALL / 2
    assert point.id != done.point


@pytest.mark.slow
def test_changes_in_several_spans_are_copied(copier: Replication, workers: SpanWorkers) -> None:
    disk = Memory(bytearray(2 * SPAN_BYTES + 12345))
    back_up(copier.source, disk, workers)
    copy_all(copier)
    changes = {SPAN_BYTES - 60_000: 120_000, 5 << 20: 40_000, 2 * SPAN_BYTES + 345: 12_000}
    for at, length in changes.items():
        disk.content[at : at + length] = noise(at, length)
    areas = ExtentMap(Extent(at, at + length) for at, length in changes.items())
    point = back_up(copier.source, disk, workers, areas=areas)
    (done,) = copy_all(copier)
    assert content(copier.destination.repository, the_copy(copier, point)) == disk.content
    assert done.read_bytes < 1_000_000


def test_a_damaged_chunk_fails_its_points_and_no_other(
    copier: Replication, workers: SpanWorkers, tmp_path: Path
) -> None:
    disk, other = Memory(noise(1, SMALL)), Memory(noise(2, SMALL))
    back_up(copier.source, disk, workers)
    harmed = changed(copier, disk, workers, 0, seed=3)
    disk.content[:200_000] = noise(4, 200_000)
    healed = back_up(copier.source, disk, workers, areas=ExtentMap([Extent(0, 200_000)]))
    whole = back_up(copier.source, other, workers, name="other")
    _damage(copier.source, harmed)
    done = copy_all(copier)
    assert states(done) == ["copied", "failed", "copied"]
    assert done[1].problem is not None
    assert done[1].problem.code == "chunk_corrupt"
    assert str(tmp_path / "source") in done[1].problem.message
    assert "repo verify" in str(done[1].problem.hint)
    assert copier.relation(harmed.vm_id).copies_of(harmed) == []
    assert content(copier.destination.repository, the_copy(copier, healed)) == disk.content
    assert states(copy_all(copier, name="other")) == ["copied"]
    assert content(copier.destination.repository, the_copy(copier, whole)) == other.content
    assert states(copy_all(copier)) == ["failed"], "a point that was missed is tried again"


def _damage(repository: Repository, point: Manifest) -> None:
    """Flip a bit in the chunk that a point's disk begins with."""
    (chunk,) = [ref.id for ref in repository.restore_point(point).disk().map.span(0) if ref.start == 0]
    (place,) = repository.store.index.look_up([chunk])
    assert place is not None
    path = Path(repository.backend.location) / pack_object(place.pack)
    content = bytearray(path.read_bytes())
    content[place.offset] ^= 1
    path.write_bytes(content)


@pytest.mark.slow
def test_what_was_forgotten_at_the_destination_stays_forgotten(copier: Replication, workers: SpanWorkers) -> None:
    disk = Memory(noise(0, SMALL))
    points = [back_up(copier.source, disk, workers)]
    points += [changed(copier, disk, workers, seed * 200_000, seed) for seed in (1, 2)]
    copy_all(copier)
    there = copier.destination.repository
    for point in points[1:]:
        there.marks.forget(the_copy(copier, point).id, "not needed here")
    assert copy_all(copier) == []
    points.append(changed(copier, disk, workers, 0, seed=3))
    assert [done.point for done in copy_all(copier)] == [points[3].id]
    assert states(copier.run([points[1]], nobody)) == ["copied"], "named, it is copied again"
    assert [copy.time for copy in there.points.all()] == [points[at].time for at in (0, 1, 3)]


def test_two_copies_at_once_leave_one_of_each_point(
    copier: Replication, workers: SpanWorkers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Memory(noise(0, SMALL))
    back_up(copier.source, disk, workers)
    both = threading.Barrier(2, timeout=60)
    check = DiskReplica.check

    def check_together(*arguments: Any) -> None:
        both.wait()
        check(*arguments)

    monkeypatch.setattr(DiskReplica, "check", check_together)
    with (
        replicating(tmp_path / "source", tmp_path / "destination", workers) as other,
        ThreadPoolExecutor(2) as pool,
    ):
        first, second = pool.map(copy_all, [copier, other])
    assert states(first) == states(second) == ["copied"]
    (copy,) = copier.destination.repository.points.all()
    assert content(copier.destination.repository, copy) == disk.content
    assert copy_all(copier) == []


@pytest.mark.slow
def test_a_copy_that_was_stopped_goes_on_where_it_was(copier: Replication, workers: SpanWorkers) -> None:
    disk = Memory(noise(1, 3 * SPAN_BYTES))
    point = back_up(copier.source, disk, workers)

    def stop_half_way(what: str, done: int, total: int) -> None:
        if done > total / 2:
            copier.stop.set()

    stopping = replace(copier, progress=stop_half_way)
    with pytest.raises(Stopped):
        copy_all(stopping)
    there = copier.destination.repository
    assert there.points.all() == []
    copier.stop.clear()
    there.store.packer.flush()
    (done,) = copy_all(copier)
    assert content(there, the_copy(copier, point)) == disk.content
    assert done.new_bytes <= 2 * SPAN_BYTES


def test_damage_at_the_destination_is_healed_on_the_way(copier: Replication, workers: SpanWorkers) -> None:
    there = copier.destination.repository
    disk = Memory(noise(1, SMALL))
    rotten = back_up(there, disk, workers, name="there already")
    point = back_up(copier.source, disk, workers)
    _damage(there, rotten)
    (done,) = copy_all(copier)
    assert done.state == "copied"
    assert 0 < done.new_bytes < SMALL / 4
    assert content(there, the_copy(copier, point)) == disk.content


def test_what_arrived_otherwise_is_no_point(
    copier: Replication, workers: SpanWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Memory(noise(1, SMALL) + bytes(SMALL))
    point = back_up(copier.source, disk, workers)
    read = PointDiskReader.read_into

    def lying(reader: PointDiskReader, offset: int, buffer: memoryview) -> None:
        read(reader, offset, buffer)
        if reader.map.ref.root == point.disks[0].map.root:  # between the source's check and the cut
            buffer[1_000_000] ^= 1

    monkeypatch.setattr(PointDiskReader, "read_into", lying)
    (done,) = copy_all(copier)
    assert done.state == "failed"
    assert done.problem is not None
    assert "what arrived is not what its source holds" in done.problem.message
    assert copier.destination.repository.points.all() == []


def test_files_and_configuration_come_along(copier: Replication, workers: SpanWorkers) -> None:
    name, files = "vm", {"vm.nvram": noise(1, 300_000), "vm.vmx": b'guestOS = "debian12-64"'}
    with copier.source.session(image_id(name)) as (session, _):
        stored = Destination(copier.source, workers).store_files(session, files)
        settle(session, [], threading.Event())
        point = session.commit(replace(point_of(session, name), files=stored, vm_config={"cpus": 2}))
    assert states(copy_all(copier)) == ["copied"]
    copy = the_copy(copier, point)
    arrived = copier.destination.repository.restore_point(copy)
    assert {file.name: arrived.file(file) for file in copy.files} == files
    assert copy.vm_config == {"cpus": 2}
