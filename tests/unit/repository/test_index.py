"""What the index says exists is what lies in packs that count."""

import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offhost.ids import ChunkId
from offhost.repository.chunks.census import Census
from offhost.repository.chunks.packs import Location
from offhost.repository.chunks.rows import as_ids
from support.indexes import CHUNK_BYTES, IndexedPacks, chunk_ids, entries_of, packs_of, truth


@pytest.fixture
def packs(tmp_path: Path) -> IndexedPacks:
    return IndexedPacks(tmp_path / "repository")


@pytest.fixture(params=["memory", "files"])
def cache(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return tmp_path / "cache" if request.param == "files" else None


def test_chunks_are_found_where_they_lie(packs: IndexedPacks, cache: Path | None) -> None:
    chunks = chunk_ids(1, 3000)
    one, two = packs.store(chunks[:1000], chunks[1000:2000])
    index = packs.index(cache)
    assert packs_of(index, chunks) == [one] * 1000 + [two] * 1000 + [None] * 1000
    assert index.look_up(chunks[1001:1002]) == [Location(two, 1, 144, 100, CHUNK_BYTES, 1, 0)]
    assert index.exist(chunks) == [True] * 2000 + [False] * 1000
    assert index.chunks_of(two) == set(chunks[1000:2000])
    assert index.look_up([]) == []


def test_ids_that_share_their_first_bytes_are_told_apart(packs: IndexedPacks, cache: Path | None) -> None:
    chunks = [ChunkId(b"\x07" * 8 + number.to_bytes(24, "big")) for number in range(500)]
    (one,) = packs.store(chunks[::2])
    index = packs.index(cache)
    assert packs_of(index, chunks) == [one, None] * 250


@pytest.mark.parametrize("edge", [bytes(32), b"\xff" * 32])
def test_the_first_and_the_last_id_are_found(packs: IndexedPacks, cache: Path | None, edge: bytes) -> None:
    (one,) = packs.store([*chunk_ids(1, 500), ChunkId(edge)])
    assert packs_of(packs.index(cache), [ChunkId(edge)]) == [one]


def test_a_pack_that_is_not_listed_or_swept_holds_nothing(packs: IndexedPacks, cache: Path | None) -> None:
    gone, swept, condemned = chunk_ids(1, 3)
    removed, dead, doomed = packs.store([gone], [swept], [condemned])
    index = packs.index(cache)
    packs.remove(removed)
    index.refresh(frozenset({doomed}), frozenset({dead}))
    assert packs_of(index, [gone, swept, condemned]) == [None, None, doomed]
    assert packs_of(index, [gone, swept, condemned], for_writing=True) == [None, None, None]
    assert index.packs == {doomed}


def test_a_damaged_copy_is_missing_to_writers_and_the_last_choice_of_readers(
    packs: IndexedPacks, cache: Path | None
) -> None:
    twice, once, beside = chunk_ids(1, 3)
    one, two, three = packs.store([twice, beside], [twice], [once])
    index = packs.index(cache)
    index.refresh(frozenset(), frozenset(), {one: frozenset({0}), three: None})
    assert packs_of(index, [twice, once, beside]) == [two, three, one]
    assert packs_of(index, [twice, once, beside], for_writing=True) == [two, None, one]
    assert [place.pack for place in index.copies(twice)] == [two, one]
    index.refresh(frozenset({two}), frozenset(), {one: frozenset({0})})
    assert [place.pack for place in index.copies(twice)] == [two, one], "condemned is better than damaged"
    assert index.exist([twice]) == [False]


def test_a_damaged_copy_that_was_just_stored_is_known_as_such(packs: IndexedPacks) -> None:
    index = packs.index()
    chunk, other = chunk_ids(1, 2)
    pack = packs.new_pack()
    index.add(pack, entries_of([[chunk, other]]))
    index.refresh(frozenset(), frozenset(), {pack: frozenset({0})})
    assert index.exist([chunk, other]) == [False, True]
    assert packs_of(index, [chunk, other]) == [pack, pack]


copies = st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=30, unique=True), min_size=1, max_size=8)


@pytest.mark.slow
@settings(deadline=None, max_examples=30)
@given(held=copies, batches=st.integers(1, 4), remembered=st.booleans())
def test_the_census_names_every_copy(
    tmp_path_factory: pytest.TempPathFactory, held: list[list[int]], batches: int, remembered: bool
) -> None:
    folder = tmp_path_factory.mktemp("census")
    packs = IndexedPacks(folder / "repository")
    chunks = chunk_ids(5, 50)
    index = packs.index(folder / "cache" if remembered else None)
    known: dict[str, list[ChunkId]] = {}
    for number, numbers in enumerate(held):
        contents = [chunks[each] for each in numbers]
        if number % 2:
            pack = packs.new_pack()
            index.add(pack, entries_of([contents]))
        else:
            (pack,) = packs.store(contents)
        known[pack] = contents
        if number % batches == 0:
            index.refresh(frozenset(), frozenset())
    index.refresh(frozenset(), frozenset())
    assert counted(index.census(), chunks) == truth(known)


def counted(census: Census, chunks: list[ChunkId]) -> set[tuple[ChunkId, str, int]]:
    """Every copy that a census tells of."""
    at, rows = census.rows(as_ids(chunks))
    assert not len(rows) or rows.max() < census.row_count
    places = zip(at.tolist(), census.pack_of(rows).tolist(), census.slot(rows).tolist(), strict=True)
    assert set(census.plain(rows).tolist()) <= {CHUNK_BYTES}
    assert set(census.stored(rows).tolist()) <= {100}
    return {(chunks[position], census.packs[pack], slot) for position, pack, slot in places if pack >= 0}


def test_a_census_stays_as_it_is(packs: IndexedPacks, cache: Path | None) -> None:
    chunks = chunk_ids(1, 100)
    one, two = packs.store(chunks[:50], chunks[50:])
    index = packs.index(cache)
    before = index.census()
    packs.remove(two)
    index.refresh(frozenset(), frozenset())
    assert before.packs == tuple(sorted([one, two]))
    assert counted(before, chunks) == truth({one: chunks[:50], two: chunks[50:]})
    assert counted(index.census(), chunks) == truth({one: chunks[:50]})


def test_a_census_tells_which_packs_it_does_not_know_whole(packs: IndexedPacks) -> None:
    broken = packs.new_pack()
    (whole,) = packs.store(chunk_ids(1, 5))
    census = packs.index().census()
    assert set(census.packs) == {broken, whole}
    assert census.unread == {broken}


@pytest.mark.slow
def test_look_ups_from_several_threads_beside_writers_and_refreshes_are_right(
    packs: IndexedPacks, tmp_path: Path
) -> None:
    chunks = chunk_ids(1, 6000)
    index = packs.index(tmp_path / "cache")
    packs.store(chunks[:2000])
    index.refresh(frozenset(), frozenset())
    stop, wrong = threading.Event(), list[str]()

    def ask(seed: int) -> None:
        chosen = np.random.default_rng(seed)
        while not stop.is_set():
            numbers = chosen.integers(0, 6000, 100).tolist()
            before = [number < 2000 for number in numbers]
            found = index.exist([chunks[number] for number in numbers])
            if any(known and not there for known, there in zip(before, found, strict=True)):
                wrong.append("what was there is missing")
            if any(there for number, there in zip(numbers, found, strict=True) if number >= 5000):
                wrong.append("what was never there exists")

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for start in range(2000, 5000, 250):
        index.add(packs.new_pack(), entries_of([chunks[start : start + 250]]))
        if start % 500 == 0:
            index.refresh(frozenset(), frozenset())
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong
    assert index.exist(chunks) == [True] * 5000 + [False] * 1000
    assert index.totals() == (5000, 5000 * CHUNK_BYTES)
