"""A sample looks at as much as it says, everywhere, and only at what is said to be unchanged."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offhost.backup.audit import Comparison, Sampling, sample
from offhost.chunking.recut import ReadRange
from offhost.chunking.spans import SPAN_BYTES
from offhost.clock import SystemClock
from offhost.errors import Stopped
from offhost.extents import Extent, ExtentMap
from offhost.pacing import Pace, Paces
from offhost.repository.points.diskmap import DiskMap

SIZE = 3 * SPAN_BYTES + 12345
BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Held:
    """A disk that has some areas allocated, and is never read by what is tested here."""

    areas: ExtentMap
    size_bytes: int = SIZE

    def allocated(self) -> ExtentMap:
        return self.areas

    def read_into(self, offset: int, buffer: memoryview) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Nothing is held."""


class Map:
    """A map of a disk of which the first span holds something."""

    @property
    def ref(self) -> Held:
        return Held(ExtentMap())

    def __len__(self) -> int:
        return 4

    def leaf(self, span: int) -> bytes | None:
        return b"leaf" if span == 0 else None


@dataclass(slots=True)
class Looked:
    """In a comparison's place: writes down what it is asked about."""

    changed: ExtentMap
    base: DiskMap = field(default_factory=lambda: cast(DiskMap, Map()))
    at: list[Extent] = field(default_factory=list)

    def differing(self, span: int, within: ExtentMap, read: ReadRange) -> Iterator[Extent]:
        start = span * SPAN_BYTES
        self.at += [Extent(start + extent.start, start + extent.end) for extent in within]
        return iter(())


def looked_at(allocated: ExtentMap, changed: ExtentMap, blocks: int, seed: int) -> tuple[Looked, int]:
    looked = Looked(changed)
    sampling, chance = Sampling(blocks, BLOCK), Random(seed)
    audited = sample(Held(allocated), cast(Comparison, looked), threading.Event(), sampling=sampling, chance=chance)
    return looked, audited.compared_bytes


def areas() -> st.SearchStrategy[ExtentMap]:
    spots = st.tuples(st.integers(0, SIZE - 1), st.integers(1, 20 << 20))
    extents = spots.map(lambda spot: Extent(spot[0], min(spot[0] + spot[1], SIZE)))
    return st.lists(extents, max_size=6).map(ExtentMap)


@given(areas(), areas(), st.integers(1, 40), st.integers(0, 1 << 30))
def test_a_sample_is_of_its_size_of_what_is_held_and_unchanged(
    allocated: ExtentMap, changed: ExtentMap, blocks: int, seed: int
) -> None:
    looked, compared_bytes = looked_at(allocated, changed, blocks, seed)
    first_span = ExtentMap([Extent(0, SPAN_BYTES)])
    freed = first_span if not allocated.clip(0, SPAN_BYTES) else ExtentMap()
    pool = allocated.union(freed).minus(changed)
    seen = ExtentMap(looked.at)
    assert seen.minus(pool) == ExtentMap()
    assert sum(extent.length for extent in looked.at) == seen.total_bytes == compared_bytes
    if pool.total_bytes <= blocks * BLOCK:
        assert seen == pool
    else:
        assert (blocks - 1) * BLOCK < compared_bytes <= blocks * BLOCK


def test_every_part_of_the_disk_gets_its_block() -> None:
    whole = ExtentMap([Extent(0, 64 << 20)])
    looked, _ = looked_at(whole, ExtentMap(), blocks=8, seed=7)
    assert [extent.start // (8 << 20) for extent in looked.at] == list(range(8))


def test_each_sample_looks_elsewhere_until_all_was_looked_at() -> None:
    whole = ExtentMap([Extent(0, 32 << 20)])
    seen = ExtentMap()
    for seed in range(60):
        seen = seen.union(ExtentMap(looked_at(whole, ExtentMap(), blocks=8, seed=seed)[0].at))
    assert seen == whole


class Counted(Pace):
    """Lets everything through, and writes down how much."""

    def __init__(self) -> None:
        super().__init__(None, SystemClock())
        self.taken: list[int] = []

    def take(self, count: int, stop: threading.Event, flow: str = "") -> None:
        self.taken.append(count)


def test_a_sample_asks_for_each_block_before_it_is_read() -> None:
    pace, looked = Counted(), cast(Comparison, Looked(ExtentMap()))
    whole = Held(ExtentMap([Extent(0, 32 << 20)]))
    sample(whole, looked, threading.Event(), paces=Paces((pace,)), sampling=Sampling(8, BLOCK))
    assert pace.taken == [BLOCK] * 8


def test_a_sample_stops_when_the_run_does() -> None:
    stop = threading.Event()
    stop.set()
    whole = ExtentMap([Extent(0, 32 << 20)])
    with pytest.raises(Stopped):
        sample(Held(whole), cast(Comparison, Looked(ExtentMap())), stop)
