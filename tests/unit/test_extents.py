"""The extent algebra, held against a bytearray."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offhost.extents import Extent, ExtentMap

SIZE = 64
extents = st.tuples(st.integers(0, SIZE), st.integers(0, SIZE)).map(lambda pair: Extent(min(pair), max(pair)))
maps = st.lists(extents, max_size=8).map(ExtentMap)


def painted(extents: ExtentMap) -> bytearray:
    canvas = bytearray(SIZE)
    for extent in extents:
        canvas[extent.start : extent.end] = b"\x01" * extent.length
    return canvas


@given(st.lists(extents, max_size=8))
def test_a_map_covers_what_its_extents_cover_in_order_and_without_seams(found: list[Extent]) -> None:
    canvas = bytearray(SIZE)
    for extent in found:
        canvas[extent.start : extent.end] = b"\x01" * extent.length
    map_ = ExtentMap(found)
    assert painted(map_) == canvas
    listed = list(map_)
    assert all(extent.length for extent in listed)
    assert all(one.end < other.start for one, other in itertools.pairwise(listed))
    assert map_.total_bytes == sum(canvas)


@given(maps, maps)
def test_union_and_minus_are_those_of_sets(one: ExtentMap, other: ExtentMap) -> None:
    a, b = painted(one), painted(other)
    assert painted(one.union(other)) == bytes(x | y for x, y in zip(a, b, strict=True))
    assert painted(one.minus(other)) == bytes(x & ~y & 1 for x, y in zip(a, b, strict=True))


@given(maps, extents)
def test_clip_keeps_what_lies_within(map_: ExtentMap, window: Extent) -> None:
    wanted = bytearray(SIZE)
    wanted[window.start : window.end] = painted(map_)[window.start : window.end]
    assert painted(map_.clip(window.start, window.end)) == wanted


@given(maps, st.integers(0, SIZE - 1))
def test_an_offset_is_in_a_map_that_covers_it(map_: ExtentMap, offset: int) -> None:
    assert (offset in map_) == bool(painted(map_)[offset])


@given(maps, st.integers(0, 9))
def test_bridging_closes_short_gaps_and_no_others(map_: ExtentMap, gap: int) -> None:
    bridged = map_.bridge(gap)
    assert not list(map_.minus(bridged))
    listed = list(bridged)
    assert all(other.start - one.end > gap for one, other in itertools.pairwise(listed))
    assert all(extent.length <= gap for extent in bridged.minus(map_))


@pytest.mark.parametrize(("start", "end"), [(-1, 2), (3, 2)])
def test_what_is_no_range_is_refused(start: int, end: int) -> None:
    with pytest.raises(ValueError, match="not an extent"):
        Extent(start, end)


def test_equal_maps_are_equal_however_they_came_about() -> None:
    one, other = ExtentMap([Extent(0, 2), Extent(2, 4)]), ExtentMap.whole(4)
    assert one == other
    assert hash(one) == hash(other)
    assert one != ExtentMap()
    assert len(one) == 1
