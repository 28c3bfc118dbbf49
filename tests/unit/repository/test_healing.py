"""What is damaged in the repository is stored anew from the source by the next backup, for every point that had it."""

import threading
from pathlib import Path

import pytest

from offhost.backup.copy import DiskCopy, map_of, settle
from offhost.chunking.spans import SPAN_BYTES
from offhost.chunking.workers import SpanWorkers
from offhost.extents import Extent, ExtentMap
from offhost.ids import DiskKey, image_id
from offhost.repository.chunks.packs import Kind
from offhost.repository.points.manifest import Manifest
from offhost.repository.repository import Repository
from offhost.repository.verification.verify import VerifyReport, verify
from support.damage import chunks_of, flip, pack_path, place_of, rot
from support.repositories import Memory, back_up, chunking_of, content, noise, opened

SIZE = SPAN_BYTES + 300_000
NOTHING_CHANGED = ExtentMap()
BY_EITHER = pytest.mark.parametrize(
    "changed",
    [pytest.param(None, id="full", marks=pytest.mark.slow), pytest.param(NOTHING_CHANGED, id="incremental")],
)
"""The next backup reads the disk whole, or by its changes."""


def checked(root: Path, *, data: bool = True) -> VerifyReport:
    with opened(root) as repository:
        return verify(repository, data=data, stop=threading.Event())


def sparse_disk() -> Memory:
    """Two spans, little in each, so that tests are quick."""
    disk = Memory(bytearray(SIZE))
    for span in range(2):
        disk.content[span * SPAN_BYTES : span * SPAN_BYTES + 200_000] = noise(span, 200_000)
    return disk


def next_backup(repository: Repository, disk: Memory, workers: SpanWorkers, areas: ExtentMap | None) -> Manifest:
    """By its changes, as long as the point before can tell what they changed: without its list pages it cannot."""
    latest = max(repository.points.of(image_id("vm")), key=lambda point: point.order)
    readable = map_of(repository.restore_point(latest), DiskKey("disk0")) is not None
    return back_up(repository, disk, workers, areas=areas if readable else None)


def harmed_points(report: VerifyReport) -> set[str]:
    return {harm.split("point ")[1][:12] for damage in report.damage for harm in damage.harms}


@BY_EITHER
@pytest.mark.parametrize("kind", list(Kind), ids=lambda kind: kind.name.lower())
def test_a_damaged_chunk_of_any_kind_is_stored_anew_and_all_points_are_whole_again(
    root: Path, workers: SpanWorkers, kind: Kind, changed: ExtentMap | None
) -> None:
    disk = sparse_disk()
    with opened(root) as repository:
        old = back_up(repository, disk, workers)
        chunk = chunks_of(repository, old, kind)[-1]
        rot(root, place_of(repository, chunk))
    found = checked(root)
    assert harmed_points(found) == {old.id[:12]}
    with opened(root) as repository:
        new = next_backup(repository, disk, workers, changed)
        assert content(repository, new) == disk.content
        assert content(repository, old) == disk.content
    healed = checked(root)
    assert healed.damage == []
    assert len(healed.healed) == 1


def test_an_incremental_reads_no_more_than_what_changed_and_what_heals(root: Path, workers: SpanWorkers) -> None:
    disk = sparse_disk()
    with opened(root) as repository:
        point = back_up(repository, disk, workers)
        place = place_of(repository, chunks_of(repository, point, Kind.CONTENT)[0])
        rot(root, place)
    checked(root)
    with opened(root) as repository:
        disk.read_bytes = 0
        back_up(repository, disk, workers, areas=NOTHING_CHANGED)
        assert place.plain <= disk.read_bytes < 3 * 256 * 1024
        disk.read_bytes = 0
        back_up(repository, disk, workers, areas=NOTHING_CHANGED)
        assert disk.read_bytes == 0


def test_a_healthy_repository_pays_nothing(root: Path, workers: SpanWorkers, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = sparse_disk()
    with opened(root) as repository:
        back_up(repository, disk, workers)
        monkeypatch.setattr(
            "offhost.repository.verification.healing._wounds_of_span", lambda *_: pytest.fail("looked at a span")
        )
        disk.read_bytes = 0
        back_up(repository, disk, workers, areas=NOTHING_CHANGED)
        assert disk.read_bytes == 0


def test_what_was_looked_through_once_is_not_looked_through_again(
    root: Path, workers: SpanWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = sparse_disk()
    with opened(root) as repository:
        point = back_up(repository, disk, workers)
        rot(root, place_of(repository, chunks_of(repository, point, Kind.CONTENT)[0]))
    checked(root)
    with opened(root) as repository:
        assert back_up(repository, disk, workers, areas=NOTHING_CHANGED).sound_under
    monkeypatch.setattr(
        "offhost.repository.verification.healing._wounds_of_span", lambda *_: pytest.fail("looked at a span")
    )
    with opened(root) as repository:
        back_up(repository, disk, workers, areas=NOTHING_CHANGED)


@BY_EITHER
def test_a_pack_whose_directory_is_damaged_is_stored_anew(
    root: Path, workers: SpanWorkers, changed: ExtentMap | None
) -> None:
    disk = sparse_disk()
    with opened(root) as repository:
        old = back_up(repository, disk, workers)
        pack = place_of(repository, chunks_of(repository, old, Kind.CONTENT)[0]).pack
    path = pack_path(root, pack)
    flip(path, path.stat().st_size - 30)
    assert harmed_points(checked(root, data=False)) == {old.id[:12]}
    with opened(root) as repository:
        back_up(repository, disk, workers, areas=changed)
        assert content(repository, old) == disk.content
    assert checked(root).damage == []


def with_shared_content(root: Path, workers: SpanWorkers) -> tuple[Memory, Path]:
    """A VM whose first span another VM had stored before; its disk, and the pack that this is in."""
    disk = sparse_disk()
    other = Memory(disk.content[:SPAN_BYTES])
    with opened(root) as repository:
        point = back_up(repository, other, workers, name="other")
        pack = place_of(repository, chunks_of(repository, point, Kind.CONTENT)[0]).pack
        back_up(repository, disk, workers)
    return disk, pack_path(root, pack)


@BY_EITHER
@pytest.mark.parametrize("verified", [True, False], ids=["verified", "unnoticed"])
def test_a_pack_that_has_vanished_is_stored_anew(
    root: Path, workers: SpanWorkers, verified: bool, changed: ExtentMap | None
) -> None:
    disk, pack = with_shared_content(root, workers)
    pack.unlink()
    if verified:
        assert len(harmed_points(checked(root, data=False))) == 2
    with opened(root) as repository:
        (old,) = repository.points.of(image_id("vm"))
        new = next_backup(repository, disk, workers, changed)
        assert content(repository, new) == disk.content
        assert content(repository, old) == disk.content
    assert harmed_points(checked(root)).isdisjoint({old.id[:12], new.id[:12]})


def test_after_a_pack_has_vanished_the_cached_index_does_not_forget_it(
    root: Path, workers: SpanWorkers, tmp_path: Path
) -> None:
    disk, pack = with_shared_content(root, workers)
    with opened(root, tmp_path):
        pass
    pack.unlink()
    with opened(root, tmp_path) as repository:
        back_up(repository, Memory(noise(5, 10_000)), workers, name="somebody else's")
    with opened(root, tmp_path) as repository:
        new = next_backup(repository, disk, workers, NOTHING_CHANGED)
        assert content(repository, new) == disk.content


@pytest.mark.parametrize("kind", [Kind.LEAF, Kind.PAGE], ids=["leaf", "page"])
def test_metadata_that_a_backup_finds_damaged_is_not_built_upon(root: Path, workers: SpanWorkers, kind: Kind) -> None:
    """Nobody has verified: the backup meets the damage itself, and the same leaf or page would have the same id."""
    disk = sparse_disk()
    with opened(root) as repository:
        old = back_up(repository, disk, workers)
        rot(root, place_of(repository, chunks_of(repository, old, kind)[0]))
    with opened(root) as repository:
        new = next_backup(repository, disk, workers, ExtentMap([Extent(0, 4096)]))
        assert content(repository, new) == disk.content
        assert content(repository, old) == disk.content
    assert checked(root).damage == []


def test_a_leaf_that_is_a_patch_of_a_damaged_one_is_not_shared(root: Path, workers: SpanWorkers) -> None:
    disk = Memory(noise(1, 3 << 20))
    with opened(root) as repository:
        first = back_up(repository, disk, workers)
        keyframe = chunks_of(repository, first, Kind.LEAF)[0]
        disk.content[0:4096] = noise(2, 4096)
        latest = back_up(repository, disk, workers, areas=ExtentMap([Extent(0, 4096)]))
        map_ = repository.restore_point(latest).map(latest.disks[0])
        assert keyframe in map_.lineage(0)[1:], "the newest leaf must be a patch for this test to say anything"
        rot(root, place_of(repository, keyframe))
    assert latest.id[:12] in harmed_points(checked(root))
    with opened(root) as repository:
        new = back_up(repository, disk, workers, areas=NOTHING_CHANGED)
        assert content(repository, new) == disk.content
    assert new.id[:12] not in harmed_points(checked(root))


def test_what_an_overwritten_chunk_harmed_harms_no_later_point(root: Path, workers: SpanWorkers) -> None:
    disk = sparse_disk()
    with opened(root) as repository:
        first = back_up(repository, disk, workers)
        chunk = chunks_of(repository, first, Kind.CONTENT)[0]
        disk.content[0:200_000] = noise(7, 200_000)
        second = back_up(repository, disk, workers, areas=ExtentMap([Extent(0, 200_000)]))
        assert chunk not in chunks_of(repository, second, Kind.CONTENT)
        rot(root, place_of(repository, chunk))
    assert harmed_points(checked(root)) == {first.id[:12]}


def test_a_point_that_does_not_open_keeps_no_vm_from_its_next_backup(root: Path, workers: SpanWorkers) -> None:
    disk = sparse_disk()
    with opened(root) as repository:
        damaged = back_up(repository, disk, workers)
    (path,) = (root / "points").rglob(damaged.id)
    flip(path, 100)
    found = checked(root)
    assert any(damaged.id in damage.what and damage.hint for damage in found.damage)
    with opened(root) as repository:
        new = back_up(repository, disk, workers)
        assert content(repository, new) == disk.content
        disk.content[5000:9000] = noise(4, 4000)
        newer = back_up(repository, disk, workers, areas=ExtentMap([Extent(5000, 9000)]))
        assert content(repository, newer) == disk.content


def test_damage_that_reads_well_again_is_called_healed(root: Path, workers: SpanWorkers) -> None:
    with opened(root) as repository:
        point = back_up(repository, sparse_disk(), workers)
        place = place_of(repository, chunks_of(repository, point, Kind.CONTENT)[0])
    rot(root, place)
    assert checked(root).damage
    rot(root, place)
    report = checked(root)
    assert report.damage == []
    assert ["reads well now" in line for line in report.healed] == [True]


def test_what_a_session_stored_anew_is_counted(root: Path, workers: SpanWorkers) -> None:
    disk = sparse_disk()
    with opened(root) as repository:
        point = back_up(repository, disk, workers)
        rot(root, place_of(repository, chunks_of(repository, point, Kind.CONTENT)[0]))
    checked(root)
    with opened(root) as repository, repository.session(image_id("vm")) as (session, base):
        known = map_of(base, DiskKey("disk0"))
        copy = DiskCopy(disk, session, chunking_of(repository), workers, base=known, areas=NOTHING_CHANGED)
        copy.run(threading.Event())
        copy.finish()
        settle(session, [], threading.Event())
        assert session.replaced == 1
        assert copy.wounds is not None
        assert copy.wounds.total_bytes > 0
