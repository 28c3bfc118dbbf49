"""Index runs: nothing they say can make a chunk exist that does not, and merging them loses nothing."""

import json
import struct
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from offhost.backend.contract import ObjectInfo
from offhost.backend.local import LocalBackend
from offhost.chunking.compress import Codec
from offhost.chunking.spans import CompressedChunk
from offhost.clock import SystemClock
from offhost.errors import IndexInconsistent, ObjectNotFound, PackCorrupt, Unavailable
from offhost.ids import ChunkId
from offhost.repository.chunks import consolidation, runs
from offhost.repository.chunks.consolidation import Consolidated, consolidate_runs
from offhost.repository.chunks.packs import Kind, OpenPack, pack_buffer, pack_object
from offhost.repository.chunks.rows import as_ids, key_column, keys_of_ids
from offhost.repository.chunks.runs import Coverage, Run, Shard, get_head, get_run, put_run
from offhost.repository.chunks.store import ChunkStore
from offhost.repository.objects.graves import Graveyard, Verdict
from offhost.repository.objects.marks import Marks
from offhost.repository.objects.sealed import ObjectType, seal, seal_json
from support.indexes import IndexedPacks, chunk_ids, entries_of, packs_of


@pytest.fixture
def packs(tmp_path: Path) -> IndexedPacks:
    return IndexedPacks(tmp_path / "repository")


@pytest.fixture
def small_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run holds hundreds of entries instead of hundreds of thousands."""
    monkeypatch.setattr(consolidation, "RUN_ENTRIES", 256)


def store_of(packs: IndexedPacks, cache: Path | None = None) -> ChunkStore:
    graveyard = Graveyard(packs.backend, packs.keyring)
    marks = Marks(packs.backend, packs.keyring, SystemClock())
    return ChunkStore(packs.backend, packs.keyring, graveyard=graveyard, marks=marks, cache=cache)


def run_names(packs: IndexedPacks) -> set[str]:
    return {item.name for item in packs.backend.list("index/")}


def sweep(packs: IndexedPacks, *gone: str) -> None:
    """What a collector puts."""
    for kind, folder in ((ObjectType.CONDEMNED, "condemned"), (ObjectType.SWEEP, "sweeps")):
        name = f"{folder}/00000001"
        packs.backend.put(name, seal_json(packs.keyring, kind, name, Verdict(frozenset(gone)).to_json()))


def test_a_run_comes_back_sorted_by_id(packs: IndexedPacks) -> None:
    chunks = chunk_ids(1, 300)
    entries = entries_of([chunks[:100], chunks[100:]])
    name = put_run(packs.backend, packs.keyring, Run(("aa", "bb"), entries))
    run = get_run(packs.backend, packs.keyring, name)
    assert run.packs == ("aa", "bb")
    assert run.entries["id"].tolist() == sorted(chunks)
    assert {tuple(entry) for entry in run.entries.tolist()} == {tuple(entry) for entry in entries.tolist()}
    assert get_head(packs.backend, packs.keyring, name) == (("aa", "bb"), Shard())


def put_raw(packs: IndexedPacks, head: object, body: bytes) -> str:
    text = json.dumps(head).encode()
    plain = zstandard.ZstdCompressor().compress(struct.pack("<I", len(text)) + text + body)
    name = "index/" + "0" * 32
    packs.backend.put(name, seal(packs.keyring, ObjectType.INDEX, name, plain))
    return name


@pytest.mark.parametrize(
    "head",
    [
        [],
        {"packs": 1, "shard": [0, 0]},
        {"packs": []},
        {"packs": [], "shard": [0]},
        {"packs": [], "shard": [-1, 0]},
        {"packs": [], "shard": [17, 0]},
        {"packs": [], "shard": [1, 2]},
        {"packs": [], "shard": ["a", "b"]},
        {"packs": [], "shard": [float("inf"), 0]},
        {"packs": [[]] * 2_000_001, "shard": [0, 0]},
    ],
)
def test_a_head_that_makes_no_sense_is_refused(packs: IndexedPacks, head: object) -> None:
    name = put_raw(packs, head, b"")
    for read in (get_run, get_head):
        with pytest.raises(PackCorrupt):
            read(packs.backend, packs.keyring, name)


@pytest.mark.parametrize(
    ("field", "value"), [("pack", 1), ("offset", 64 << 20), ("stored", 0xFFFFFFFF), ("plain", (4 << 20) + 1)]
)
def test_an_entry_that_leaves_its_bounds_is_refused(packs: IndexedPacks, field: str, value: int) -> None:
    entries = entries_of([chunk_ids(1, 1)])
    entries[field] = value
    name = put_run(packs.backend, packs.keyring, Run(("aa",), entries))
    with pytest.raises(IndexInconsistent):
        get_run(packs.backend, packs.keyring, name)


def test_an_entry_outside_its_shard_is_refused(packs: IndexedPacks) -> None:
    entries = entries_of([[ChunkId(b"\x80" + bytes(31))]])
    name = put_run(packs.backend, packs.keyring, Run(("aa",), entries, Shard(1, 0)))
    with pytest.raises(IndexInconsistent):
        get_run(packs.backend, packs.keyring, name)


def test_entries_that_are_cut_short_are_refused(packs: IndexedPacks) -> None:
    name = put_raw(packs, {"packs": ["aa"], "supersedes": [], "shard": [0, 0]}, b"half an entry")
    with pytest.raises(PackCorrupt):
        get_run(packs.backend, packs.keyring, name)


shards = st.integers(0, 4).flatmap(lambda bits: st.builds(Shard, st.just(bits), st.integers(0, (1 << bits) - 1)))


@given(st.sets(shards))
def test_a_pack_is_covered_when_every_id_has_a_shard(some: set[Shard]) -> None:
    coverage = Coverage()
    for shard in some:
        coverage.add(("aa",), shard)
    everywhere = all(any(number >> 4 - shard.bits == shard.prefix for shard in some) for number in range(16))
    assert coverage.whole() == ({"aa"} if everywhere else set())


def test_shards_of_several_runs_cover_a_pack_together(packs: IndexedPacks) -> None:
    coverage = Coverage()
    coverage.add(("aa", "bb"), Shard(1, 0))
    coverage.add(("bb", "cc"), Shard(1, 1))
    coverage.add(("cc",), Shard(2, 0))
    assert coverage.whole() == {"bb"}
    assert coverage.named() == {"aa", "bb", "cc"}


def split(chunks: Sequence[ChunkId], bits: int, prefix: int) -> list[ChunkId]:
    keys = keys_of_ids(as_ids(chunks)) >> np.uint64(64 - bits)
    return [chunk for chunk, key in zip(chunks, keys.tolist(), strict=True) if key == prefix]


def put_shard(packs: IndexedPacks, pack: str, chunks: Sequence[ChunkId], shard: Shard) -> str:
    entries = entries_of([chunks])
    own = entries[key_column(entries) >> np.uint64(64 - shard.bits) == shard.prefix]
    return put_run(packs.backend, packs.keyring, Run((pack,), own, shard))


@pytest.mark.parametrize("remembered", [False, True])
def test_a_pack_that_a_shard_leaves_out_is_read_by_its_directory(
    packs: IndexedPacks, tmp_path: Path, remembered: bool
) -> None:
    chunks = chunk_ids(1, 100)
    pack = packs.new_pack()  # empty: its directory cannot be read
    put_shard(packs, pack, chunks, Shard(1, 0))
    cache = tmp_path / "cache" if remembered else None
    assert packs.index(cache).census().unread == {pack}
    put_shard(packs, pack, chunks, Shard(1, 1))
    index = packs.index(cache)
    if not remembered:
        assert index.census().unread == frozenset()
        assert index.exist(chunks) == [True] * 100


@settings(deadline=None, max_examples=15)
@given(
    held=st.lists(st.lists(st.integers(0, 300), min_size=1, max_size=80, unique=True), min_size=1, max_size=20),
    dead=st.sets(st.integers(0, 19)),
    rounds=st.integers(1, 3),
)
def test_what_exists_is_the_same_after_runs_are_merged(
    tmp_path_factory: pytest.TempPathFactory, held: list[list[int]], dead: set[int], rounds: int
) -> None:
    packs = IndexedPacks(tmp_path_factory.mktemp("runs") / "repository")
    chunks = chunk_ids(3, 301)
    names = [packs.store([chunks[number] for number in numbers])[0] for numbers in held]
    gone = {name for number, name in enumerate(names) if number in dead}
    sweep(packs, *gone)
    for name in gone:
        packs.remove(name)
    for _ in range(rounds):
        consolidate_runs(store_of(packs))
    index = packs.index()
    known = {
        chunk for number, numbers in enumerate(held) if number not in dead for chunk in (chunks[at] for at in numbers)
    }
    assert {chunk for chunk, there in zip(chunks, index.exist(chunks), strict=True) if there} == known
    assert index.census().unread == frozenset()
    left = [get_head(packs.backend, packs.keyring, name)[0] for name in run_names(packs)]
    assert all(set(names_of_run) - gone for names_of_run in left)


@pytest.mark.slow
def test_many_small_runs_become_few(packs: IndexedPacks) -> None:
    for seed in range(64):
        packs.store(chunk_ids(seed, 10))
        if seed % 8 == 7:
            consolidate_runs(store_of(packs))
    assert len(run_names(packs)) <= 4
    assert all(packs.index().exist(chunk_ids(seed, 10)) == [True] * 10 for seed in range(64))


@pytest.mark.usefixtures("small_runs")
def test_what_is_merged_into_more_than_a_run_holds_is_sharded(packs: IndexedPacks, tmp_path: Path) -> None:
    contents = [chunk_ids(seed, 300) for seed in range(4)]
    names = [packs.store(chunks)[0] for chunks in contents]
    done = consolidate_runs(store_of(packs, tmp_path / "cache"))
    assert (done.put, done.entries, done.deleted) == (8, 1200, 4)
    heads = {name: get_head(packs.backend, packs.keyring, name) for name in run_names(packs)}
    assert {shard for _, shard in heads.values()} == {Shard(3, prefix) for prefix in range(8)}
    assert {covered for covered, _ in heads.values()} == {tuple(sorted(names))}
    index = packs.index()
    assert [packs_of(index, chunks) for chunks in contents] == [[name] * 300 for name in names]
    assert consolidate_runs(store_of(packs)) == Consolidated(), "there is nothing left to do"


@pytest.mark.usefixtures("small_runs")
def test_a_large_run_is_not_rewritten_for_a_small_one(packs: IndexedPacks) -> None:
    packs.store(*(chunk_ids(seed, 100) for seed in range(10)))
    (large,) = run_names(packs)
    packs.store(chunk_ids(100, 20))
    consolidate_runs(store_of(packs))
    assert large in run_names(packs)


def test_runs_of_dead_packs_go_and_entries_of_dead_packs_are_dropped(packs: IndexedPacks) -> None:
    one, two, three = packs.store(chunk_ids(1, 10), chunk_ids(2, 10), chunk_ids(3, 10))
    (four,) = packs.store(chunk_ids(4, 10))
    sweep(packs, one, two, four)
    for gone in (one, two, four):
        packs.remove(gone)
    consolidate_runs(store_of(packs))
    (name,) = run_names(packs)
    run = get_run(packs.backend, packs.keyring, name)
    assert run.packs == (three,)
    assert set(run.entries["id"].tolist()) == set(chunk_ids(3, 10))
    packs.remove(three)


def real_pack(packs: IndexedPacks, chunks: Sequence[ChunkId]) -> str:
    """A pack that says in its directory what it holds."""
    pack = OpenPack(packs.keyring, pack_buffer())
    for chunk in chunks:
        pack.add(CompressedChunk(chunk, Codec.RAW, 4, b"data", memoryview(b"data")), Kind.CONTENT)
    name, _ = pack.close()
    packs.backend.put(pack_object(name), pack.buffer[: pack.size_bytes])
    return name


def test_a_pack_that_no_run_covers_is_covered(packs: IndexedPacks) -> None:
    chunks = chunk_ids(1, 20)
    pack = real_pack(packs, chunks)
    consolidate_runs(store_of(packs))
    (name,) = run_names(packs)
    assert get_head(packs.backend, packs.keyring, name)[0] == (pack,)
    assert packs_of(packs.index(), chunks) == [pack] * 20


def test_a_run_that_does_not_open_goes_when_asked_to_and_all_is_covered_without_it(packs: IndexedPacks) -> None:
    pack = real_pack(packs, chunk_ids(1, 20))
    bad = "index/" + "e" * 32
    packs.backend.put(bad, b"no run")
    consolidate_runs(store_of(packs))
    assert bad in run_names(packs)
    consolidate_runs(store_of(packs), unreadable_too=True)
    assert bad not in run_names(packs)
    assert packs_of(packs.index(), chunk_ids(1, 20)) == [pack] * 20


class Interrupted(LocalBackend):
    """A backend whose process dies at one of its calls that change something, having done it or not."""

    def __init__(self, root: Path, at: int, *, done: bool) -> None:
        super().__init__(root)
        self._at, self._done, self.calls = at, done, 0

    def put(self, name: str, data: bytes | bytearray | memoryview) -> None:
        self._call(lambda: LocalBackend.put(self, name, data))

    def delete(self, name: str) -> None:
        self._call(lambda: LocalBackend.delete(self, name))

    def _call(self, change: Callable[[], None]) -> None:
        self.calls += 1
        if self.calls < self._at or (self.calls == self._at and self._done):
            change()
        if self.calls >= self._at:
            raise Unavailable("interrupted")


class Hiccuping(LocalBackend):
    """A backend that fails to put once, having done it or not."""

    done: bool | None = None

    def put(self, name: str, data: bytes | bytearray | memoryview) -> None:
        done, self.done = self.done, None
        if done is not False:
            super().put(name, data)
        if done is not None:
            raise Unavailable("the connection broke")


@pytest.mark.parametrize("done", [False, True])
def test_a_run_whose_put_fails_once_or_whose_reply_is_lost_is_put(packs: IndexedPacks, done: bool) -> None:
    backend = Hiccuping(packs.backend.root)
    backend.done = done
    name = put_run(backend, packs.keyring, Run(("aa",), entries_of([chunk_ids(1, 5)])))
    assert run_names(packs) == {name}
    assert len(get_run(packs.backend, packs.keyring, name).entries) == 5


@pytest.mark.usefixtures("small_runs")
@pytest.mark.parametrize("done", [False, True])
def test_a_consolidation_that_dies_at_any_step_harms_nothing(packs: IndexedPacks, tmp_path: Path, done: bool) -> None:
    contents = [chunk_ids(seed, 200) for seed in range(4)]
    names = [packs.store(chunks)[0] for chunks in contents]
    backend, at = packs.backend, 0
    while True:
        at += 1
        packs.backend = Interrupted(backend.root, at, done=done)
        try:
            consolidate_runs(store_of(packs))
        except Unavailable:
            packs.backend = backend
            index = packs.index()
            assert index.census().unread == frozenset(), f"interrupted at call {at}"
            assert [packs_of(index, chunks) for chunks in contents] == [[name] * 200 for name in names]
            if at < 12:  # then the next one completes what this one began
                continue
        packs.backend = backend
        break
    consolidate_runs(store_of(packs))
    consolidate_runs(store_of(packs))
    assert len(run_names(packs)) == 4
    assert consolidate_runs(store_of(packs)) == Consolidated()


@pytest.mark.usefixtures("small_runs")
def test_consolidations_at_once_with_writers_and_readers_lose_nothing(packs: IndexedPacks) -> None:
    contents = {packs.store(chunk_ids(seed, 60))[0]: chunk_ids(seed, 60) for seed in range(12)}

    def collect() -> None:
        for _ in range(6):
            consolidate_runs(store_of(packs))

    with ThreadPoolExecutor(3) as pool:
        collectors = [pool.submit(collect) for _ in range(3)]
        seed = 100
        while not all(each.done() for each in collectors):
            seed += 1
            contents[packs.store(chunk_ids(seed, 60))[0]] = chunk_ids(seed, 60)
            index = packs.index()
            unread = index.census().unread
            for pack, chunks in contents.items():
                assert pack in unread or packs_of(index, chunks) == [pack] * len(chunks)
        for each in collectors:
            each.result()
    for name in run_names(packs):
        get_run(packs.backend, packs.keyring, name)


class Vanishing(LocalBackend):
    """A listing that names runs which are superseded and deleted before they are read."""

    def __init__(self, root: Path, between: "Iterator[None]") -> None:
        super().__init__(root)
        self._between = between

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        found = list(super().list(prefix))
        if prefix == "index/":
            next(self._between, None)
        yield from found


def test_a_reader_whose_runs_vanish_finds_those_that_supersede_them(packs: IndexedPacks) -> None:
    contents = [chunk_ids(seed, 50) for seed in range(4)]
    names = [packs.store(chunks)[0] for chunks in contents]

    def consolidated() -> Iterator[None]:
        consolidate_runs(store_of(packs))
        yield

    reader = IndexedPacks.__new__(IndexedPacks)
    reader.backend, reader.keyring = Vanishing(packs.backend.root, consolidated()), packs.keyring
    index = reader.index()
    assert [packs_of(index, chunks) for chunks in contents] == [[name] * 50 for name in names]
    with pytest.raises(ObjectNotFound):
        get_run(packs.backend, packs.keyring, "index/" + "0" * 32)


def test_a_warm_opening_reads_no_run_again(
    packs: IndexedPacks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packs.store(chunk_ids(1, 100))
    assert packs.index(tmp_path / "cache").exist(chunk_ids(1, 100)) == [True] * 100
    packs.store(chunk_ids(2, 100))
    read: list[str] = []
    get = LocalBackend.get

    def noted(self: LocalBackend, name: str, limit_bytes: int) -> bytes:
        read.append(name)
        return get(self, name, limit_bytes)

    monkeypatch.setattr(LocalBackend, "get", noted)
    assert packs.index(tmp_path / "cache").exist(chunk_ids(2, 100)) == [True] * 100
    assert len(read) == 1
    packs.index(tmp_path / "cache")
    assert len(read) == 1
    assert runs.RUN_ENTRIES <= runs.RUN_LIMIT_ENTRIES
