"""What copying from one repository to another promises: the same points, whatever keys and cuts, and nothing twice."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from offhost.backup.replication import Replication
from offhost.chunking.spans import SPAN_BYTES
from offhost.chunking.workers import SpanWorkers
from offhost.errors import UsageError
from offhost.extents import Extent, ExtentMap
from offhost.repository.manifest import Manifest
from offhost.repository.stats import stats
from support.replicas import copy_all, replicating, replication, states, the_copy
from support.repositories import Memory, back_up, content, make, noise

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
    assert done.read_in_full == ()


def test_what_was_copied_is_not_copied_again(copier: Replication, workers: SpanWorkers) -> None:
    disk = Memory(noise(1, SMALL))
    back_up(copier.source, disk, workers)
    assert states(copy_all(copier)) == ["copied"]
    assert copy_all(copier) == []
    assert copier.copy(copier.source.points.all()[0]).state == "there"
    assert len(copier.destination.repository.points.all()) == 1


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
