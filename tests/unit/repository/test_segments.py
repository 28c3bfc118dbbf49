"""The local copy of the index: it gives right answers or none, whatever became of its files."""

import errno
import fcntl
import logging
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offhost.ids import ChunkId
from offhost.repository.chunks import index as index_module
from offhost.repository.chunks import segments
from offhost.repository.chunks.rows import as_ids, one_of_each
from offhost.repository.chunks.segments import Merger, Segment, SegmentRotten, in_order, load
from offhost.repository.chunks.tiers import like_sized
from support.indexes import IndexedPacks, chunk_ids, entries_of, packs_of

KEY = b"k" * 32


@pytest.fixture
def packs(tmp_path: Path) -> IndexedPacks:
    return IndexedPacks(tmp_path / "repository")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def segment_of(pack: str, chunks: list[ChunkId]) -> Segment:
    return Segment.of([pack], entries_of([chunks]))


def name(number: int) -> str:
    return f"{number:064x}"


def everything(pack: str) -> bool:
    return True


def contents(segment: Segment) -> set[tuple[bytes, str, int]]:
    """Every row: chunk, pack, slot."""
    return {(chunk, segment.packs[pack], slot) for chunk, pack, slot, *_ in segment.entries.tolist()}


held = st.lists(st.lists(st.integers(0, 60), min_size=0, max_size=40, unique=True), min_size=1, max_size=6)


@pytest.mark.slow
@settings(deadline=None)
@given(held=held, dead=st.sets(st.integers(0, 5)), in_files=st.booleans(), bits=st.sampled_from([None, 0, 3, 9]))
def test_what_is_merged_holds_each_row_once_and_in_order(
    tmp_path_factory: pytest.TempPathFactory,
    held: list[list[int]],
    dead: set[int],
    in_files: bool,
    bits: int | None,
) -> None:
    chunks = chunk_ids(1, 61)
    folder = tmp_path_factory.mktemp("merged")
    parts = [segment_of(name(at), [chunks[number] for number in numbers]) for at, numbers in enumerate(held)]
    parts.append(parts[0])  # the same pack, learnt twice
    live = {name(at) for at in range(len(held)) if at not in dead}
    if in_files:
        parts = [Merger(folder, KEY).join([part], everything) for part in parts]
    expected = {row for part in parts for row in contents(part) if row[1] in live}
    merged = Merger(folder if in_files else None, KEY).join(parts, live.__contains__)
    assert contents(merged) == expected
    assert len(merged) == len(expected)
    assert set(merged.packs) == live == merged.whole
    pieces = list(in_order(parts, {pack: number for number, pack in enumerate(sorted(live))}, bits))
    rows = np.concatenate(pieces)
    assert len(rows) == len(expected)
    distinct = {chunk for chunk, *_ in expected}
    assert sorted(one_of_each(rows)["id"].tolist()) == sorted(distinct)
    positions, found = merged.find(as_ids(chunks))
    assert {(chunks[at], int(merged.entries["slot"][row])) for at, row in zip(positions, found, strict=True)} == {
        (chunk, slot) for chunk, _, slot in expected
    }


@given(st.lists(st.integers(0, 10**9), max_size=30))
def test_merging_by_size_ends_with_few(sizes: list[int]) -> None:
    rewritten = 0
    while chosen := like_sized(sizes):
        assert len(chosen) > 1
        rewritten += 1
        together = sum(sizes[at] for at in chosen)
        sizes = [size for at, size in enumerate(sizes) if at not in chosen] + [together]
    assert rewritten <= 30
    assert len([size for size in sizes if size]) <= 40
    assert like_sized([1, 1, 100]) == [0, 1]


def test_what_a_process_learnt_the_next_one_knows(packs: IndexedPacks, cache: Path) -> None:
    chunks = chunk_ids(1, 500)
    (pack,) = packs.store(chunks)
    packs.index(cache)
    packs.backend.delete(next(iter(packs.backend.list("index/"))).name)
    assert packs_of(packs.index(cache), chunks) == [pack] * 500


def files_of(cache: Path) -> list[Path]:
    return sorted(cache.iterdir())


@pytest.mark.parametrize("part", ["magic", "count", "digest", "tables", "cut", "longer", "empty", "text"])
def test_a_file_whose_frame_is_damaged_is_thrown_away(packs: IndexedPacks, cache: Path, part: str) -> None:
    chunks = chunk_ids(1, 500)
    (pack,) = packs.store(chunks)
    packs.index(cache)
    (path,) = files_of(cache)
    whole = path.read_bytes()
    damaged = bytearray(whole)
    for at in {"magic": [0], "count": [9], "digest": [40], "tables": [len(whole) - 1]}.get(part, []):
        damaged[at] ^= 1
    path.write_bytes(
        {"cut": whole[:-1], "longer": whole + b"\0", "empty": b"", "text": b"no segment" * 20}.get(part, bytes(damaged))
    )
    index = packs.index(cache)
    assert packs_of(index, chunks) == [pack] * 500
    assert path not in files_of(cache)
    assert len(files_of(cache)) == 1


@pytest.mark.slow
@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_a_flipped_bit_never_makes_a_wrong_answer(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("flipped")
    chunks = chunk_ids(1, 400)
    packs = IndexedPacks(folder / "repository")
    (pack,) = packs.store(chunks[:200])
    packs.index(folder / "cache")
    (path,) = files_of(folder / "cache")
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    index = packs.index(folder / "cache")
    asked = data.draw(st.permutations(range(400)))[:50]
    assert packs_of(index, [chunks[at] for at in asked]) == [pack if at < 200 else None for at in asked]
    assert index.exist(chunks) == [True] * 200 + [False] * 200
    assert {place.slot for place in index.copies(chunks[7])} == {7}
    assert index.totals()[0] == 200
    assert packs_of(packs.index(folder / "cache"), chunks) == [pack] * 200 + [None] * 200


def rot(cache: Path, offset: int) -> None:
    (path,) = files_of(cache)
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))


def test_rot_that_is_met_while_asking_is_mended_at_once(
    packs: IndexedPacks, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    chunks = chunk_ids(1, 500)
    (pack,) = packs.store(chunks)
    packs.index(cache)
    rot(cache, 64 + 20)
    index = packs.index(cache)
    with caplog.at_level(logging.WARNING):
        assert packs_of(index, chunks) == [pack] * 500
    assert "the local copy of the index is damaged" in caplog.text
    assert packs_of(packs.index(cache), chunks) == [pack] * 500


def test_a_census_that_meets_rot_says_so_and_the_next_one_is_right(packs: IndexedPacks, cache: Path) -> None:
    chunks = chunk_ids(1, 500)
    packs.store(chunks)
    packs.index(cache)
    rot(cache, 64 + 20)
    index = packs.index(cache)
    with pytest.raises(SegmentRotten):
        index.census().rows(as_ids(chunks))
    assert len(index.census().rows(as_ids(chunks))[1]) == 500


def test_rot_is_not_merged_into_a_new_file(packs: IndexedPacks, cache: Path) -> None:
    chunks = chunk_ids(1, 500)
    (pack,) = packs.store(chunks)
    packs.index(cache)
    rot(cache, 64 + 33)
    (second,) = packs.store(chunk_ids(2, 500))
    index = packs.index(cache)
    assert packs_of(index, chunks + chunk_ids(2, 500)) == [pack] * 500 + [second] * 500
    assert packs_of(packs.index(cache), chunks + chunk_ids(2, 500)) == [pack] * 500 + [second] * 500


def test_another_repositorys_file_is_no_file(packs: IndexedPacks, cache: Path, tmp_path: Path) -> None:
    other = IndexedPacks(tmp_path / "other")
    foreign = chunk_ids(1, 100)
    other.store(foreign)
    other.index(cache)
    assert packs.index(cache).exist(foreign) == [False] * 100
    assert files_of(cache) == []


def test_what_a_dead_process_left_is_swept_and_what_a_living_one_writes_is_not(cache: Path) -> None:
    cache.mkdir()
    left, written = cache / "left.new", cache / "written.new"
    left.write_bytes(b"half a segment")
    with open(written, "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert load(cache, KEY) == []
        assert files_of(cache) == [written]


def test_files_are_private(packs: IndexedPacks, cache: Path) -> None:
    packs.store(chunk_ids(1, 10))
    packs.index(cache)
    assert cache.stat().st_mode & 0o777 == 0o700
    assert [path.stat().st_mode & 0o777 for path in files_of(cache)] == [0o600]


def test_without_room_for_files_the_index_works_in_memory(
    packs: IndexedPacks, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(fd: int, mode: str) -> None:
        os.close(fd)
        raise OSError(errno.ENOSPC, "No space left on device")

    chunks = chunk_ids(1, 3000)
    names = packs.store(chunks[:1000], chunks[1000:2000])
    monkeypatch.setattr(segments, "_HELD_ROWS", 500)
    monkeypatch.setattr(os, "fdopen", full)
    with caplog.at_level(logging.WARNING):
        index = packs.index(cache)
    assert packs_of(index, chunks) == [names[0]] * 1000 + [names[1]] * 1000 + [None] * 1000
    assert "No space left on device" in caplog.text
    monkeypatch.undo()
    assert packs_of(packs.index(cache), chunks[:2000]) == [names[0]] * 1000 + [names[1]] * 1000


def test_dead_packs_do_not_stay_in_the_files(packs: IndexedPacks, cache: Path) -> None:
    contents = [chunk_ids(seed, 100) for seed in range(5)]
    names = [packs.store(chunks)[0] for chunks in contents]
    index = packs.index(cache)
    for dead in names[:4]:
        packs.remove(dead)
    index.refresh(frozenset(), frozenset())
    assert index.census().row_count == 100
    assert packs_of(index, contents[4]) == [names[4]] * 100


def test_files_stay_few_however_much_is_added(
    packs: IndexedPacks, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_module, "_RECENT_LIMIT", 64)
    index = packs.index(cache)
    chunks = chunk_ids(1, 6000)
    for start in range(0, 6000, 20):
        index.add(packs.new_pack(), entries_of([chunks[start : start + 20]]))
        index.tidy()
    assert len(files_of(cache)) <= 8
    assert index.exist(chunks) == [True] * 6000
    index.refresh(frozenset(), frozenset())
    assert index.totals()[0] == 6000


def test_two_processes_share_a_cache(packs: IndexedPacks, cache: Path) -> None:
    contents = [chunk_ids(seed, 100) for seed in range(6)]
    names = [packs.store(chunks)[0] for chunks in contents[:2]]
    one, two = packs.index(cache), packs.index(cache)
    for chunks in contents[2:]:
        names += packs.store(chunks)
        one.refresh(frozenset(), frozenset())
        two.refresh(frozenset(), frozenset())
    third = packs.index(cache)
    for index in (one, two, third):
        assert [packs_of(index, chunks) for chunks in contents] == [[pack] * 100 for pack in names]
        assert index.totals()[0] == 600
