import random

import numpy as np
import pytest
from hypothesis import given, settings
from numpy.typing import NDArray

from offhost.chunking.pages import PAGE_BYTES
from offhost.chunking.pieces import Piece
from offhost.chunking.recut import Recut, recut
from offhost.errors import ReadFailed
from offhost.extents import Extent, ExtentMap
from support.changed_disks import CUTTER, END, PAGES, PLAIN, ZERO, Edit, Runs, changes, disk_of, edited

Disk = NDArray[np.uint8]


def pages_of(extents: ExtentMap, size: int, *, margin: int = 0) -> NDArray[np.bool_]:
    pages = np.zeros(-(-size // PAGE_BYTES), np.bool_)
    for extent in extents:
        pages[max(extent.start // PAGE_BYTES - margin, 0) : -(-extent.end // PAGE_BYTES) + margin] = True
    return pages


def checked_recut(before: Disk, edits: list[Edit]) -> Recut:
    """Cut incrementally, and hold all that is promised against a full cut."""
    after, areas = edited(before, edits)
    old = CUTTER.cut(before.data)
    buffer = np.full(len(after), 0xEE, np.uint8)
    reads: list[Extent] = []

    def read(offset: int, into: memoryview) -> None:
        into[:] = after.data[offset : offset + len(into)]
        reads.append(Extent(offset, offset + len(into)))

    result = recut(CUTTER, buffer.data, old, areas, read=read)
    assert result.pieces == CUTTER.cut(after.data)
    fresh = []
    for piece, at in zip(result.pieces, result.kept, strict=True):
        if at is None:
            fresh.append(Extent(piece.start, piece.end))
            assert np.array_equal(buffer[piece.start : piece.end], after[piece.start : piece.end])
        else:
            assert old[at] == piece
            assert np.array_equal(before[piece.start : piece.end], after[piece.start : piece.end])
    seen = pages_of(ExtentMap(reads), len(after))
    assert not np.any(seen & ~(pages_of(ExtentMap(fresh), len(after)) | pages_of(areas, len(after), margin=3)))
    assert result.read_bytes == ExtentMap(reads).total_bytes == sum(extent.length for extent in reads)
    return result


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(changes())
def test_an_incremental_cut_equals_a_full_one_and_reads_only_its_fresh_pieces(change: tuple[Disk, list[Edit]]) -> None:
    checked_recut(*change)


def some_runs(chance: random.Random, pages: int) -> Disk:
    runs: Runs = []
    while sum(count for _, count in runs) < pages:
        symbol = chance.choice([ZERO, ZERO, END, PLAIN, PLAIN, PLAIN + 1, PLAIN + 2])
        runs.append((symbol, chance.choice([1, 1, 2, 3, 4, 5, 8, 20, 70])))
    return disk_of(runs)[: pages * PAGE_BYTES]


def any_change(chance: random.Random) -> tuple[Disk, list[Edit]]:
    pages = chance.randint(1, chance.choice([3, 12, 40, 200]))
    disk = some_runs(chance, pages)
    disk = disk[: len(disk) - chance.choice([0, 0, 0, 512, 4095])]
    edits = []
    for _ in range(chance.choice([0, 1, 1, 2, 3, 6])):
        at, count = chance.randrange(pages) * PAGE_BYTES, chance.choice([1, 1, 2, 3, 4, 6, 16])
        data = some_runs(chance, count) if chance.random() < 0.6 else np.tile(chance.choice(list(PAGES)), count)
        edits.append(Edit(at, data, changed=chance.random() < 0.85))
    return disk, edits


@pytest.mark.slow
def test_thousands_of_random_changes_are_cut_like_the_whole() -> None:
    chance = random.Random(20)
    for _ in range(2000):
        checked_recut(*any_change(chance))


def one_edit(before: Runs, at_page: int, written: Runs) -> Recut:
    return checked_recut(disk_of(before), [Edit(at_page * PAGE_BYTES, disk_of(written))])


def test_a_zero_page_that_closes_a_hole_outside_the_area_shortens_the_chunk_before() -> None:
    assert one_edit([(PLAIN, 5), (ZERO, 3), (PLAIN, 9)], 8, [(ZERO, 1)]).pieces[0].length == 5 * PAGE_BYTES


def test_a_chunk_of_greatest_length_that_ends_in_zero_pages_gives_them_up_to_a_hole_that_begins_after_it() -> None:
    result = one_edit([(PLAIN, 62), (ZERO, 2), (PLAIN, 20)], 64, [(ZERO, 2)])
    assert result.pieces[0] == Piece(0, 62 * PAGE_BYTES)
    assert result.kept[0] is None


def test_data_written_into_a_hole_continues_the_chunk_that_the_hole_had_ended() -> None:
    result = one_edit([(PLAIN, 5), (ZERO, 9), (PLAIN, 9)], 5, [(PLAIN, 3)])
    assert result.pieces[0] == Piece(0, 8 * PAGE_BYTES)


def test_data_written_into_the_middle_of_a_hole_leaves_both_neighbours() -> None:
    result = one_edit([(PLAIN, 5), (ZERO, 20), (PLAIN, 9)], 15, [(PLAIN, 1)])
    assert result.kept == [0, None, 1]
    assert result.read_bytes == 7 * PAGE_BYTES


def test_one_changed_page_costs_its_chunk_and_three_pages_at_most() -> None:
    result = one_edit([(PLAIN, 4), (END, 1)] * 40, 101, [(PLAIN + 1, 1)])
    assert [at for at in range(40) if result.kept[at] is None] == [20]
    assert result.read_bytes <= 8 * PAGE_BYTES


def test_nothing_changed_reads_nothing() -> None:
    result = checked_recut(disk_of([(PLAIN, 4), (END, 1)] * 40), [])
    assert result.kept == list(range(40))
    assert result.read_bytes == 0


def test_an_area_reported_though_nothing_changed_in_it_gives_the_same_pieces() -> None:
    disk = disk_of([(PLAIN, 4), (END, 1)] * 10)
    assert checked_recut(disk, [Edit(0, disk, changed=False)]).pieces == CUTTER.cut(disk.data)


def test_an_empty_span_has_no_pieces() -> None:
    assert recut(CUTTER, memoryview(bytearray()), [], ExtentMap(), read=lambda *_: None) == Recut([], [], 0)


def test_an_area_that_leaves_the_span_is_refused_by_nothing_but_its_end() -> None:
    disk = disk_of([(PLAIN, 4), (END, 1)] * 3)
    areas = ExtentMap([Extent(len(disk) - 1, len(disk) + 70_000)])

    def read(offset: int, into: memoryview) -> None:
        into[:] = disk.data[offset : offset + len(into)]

    result = recut(CUTTER, memoryview(bytearray(len(disk))), CUTTER.cut(disk.data), areas, read=read)
    assert result.kept == [0, 1, None]


@pytest.mark.parametrize(
    "old",
    [
        [Piece(0, 3 * PAGE_BYTES), Piece(2 * PAGE_BYTES, PAGE_BYTES)],
        [Piece(100, PAGE_BYTES)],
        [Piece(0, 100)],
        [Piece(0, 0)],
        [Piece(-PAGE_BYTES, PAGE_BYTES)],
        [Piece(0, 11 * PAGE_BYTES)],
        [Piece(5 * PAGE_BYTES, PAGE_BYTES), Piece(0, PAGE_BYTES)],
    ],
    ids=["overlap", "unaligned", "short", "empty", "before the span", "past the span", "out of order"],
)
def test_pieces_that_are_no_map_of_the_span_are_refused(old: list[Piece]) -> None:
    with pytest.raises(ValueError, match="not the pieces of a span"):
        recut(CUTTER, memoryview(bytearray(10 * PAGE_BYTES)), old, ExtentMap(), read=lambda *_: None)


def test_a_failed_read_ends_it() -> None:
    def read(offset: int, into: memoryview) -> None:
        raise ReadFailed("the datastore is gone")

    areas = ExtentMap([Extent(0, 1)])
    with pytest.raises(ReadFailed):
        recut(CUTTER, memoryview(bytearray(PAGE_BYTES)), [], areas, read=read)
