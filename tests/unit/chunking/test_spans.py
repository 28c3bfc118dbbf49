import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from offhost.chunking.compress import Codec, Compression, decompress
from offhost.chunking.spans import (
    SPAN_BYTES,
    Chunking,
    ChunkRef,
    CompressedChunk,
    SpanMap,
    span_buffer,
    store_changes,
    store_span,
    store_stream,
)
from offhost.errors import NoSpace
from offhost.extents import Extent, ExtentMap
from offhost.ids import ChunkId
from support.changed_disks import CUTTER, Edit, changes, edited
from support.page_rule import PAGE, random_bytes

KEY = bytes(range(32))
CHUNKING = Chunking(CUTTER, KEY, Compression(Codec.LZ4))


@dataclass
class Shelf:
    """A sink that keeps plain bytes by id and remembers what it was asked."""

    chunks: dict[ChunkId, bytes] = field(default_factory=dict)
    promised: set[ChunkId] = field(default_factory=set)
    questions: list[int] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def missing(self, ids: Sequence[ChunkId], lengths: Sequence[int]) -> Sequence[int]:
        assert len(ids) == len(lengths)
        with self.lock:
            self.questions.append(len(ids))
            new = dict.fromkeys(one for one in ids if one not in self.promised)
            self.promised.update(new)
            return sorted(ids.index(one) for one in new)

    def put(self, chunks: Sequence[CompressedChunk]) -> None:
        for chunk in chunks:
            assert chunk.id in self.promised
            assert chunk.id not in self.chunks
            plain = decompress(chunk.codec, chunk.data, chunk.plain_bytes)
            assert np.array_equal(np.frombuffer(plain, np.uint8), np.frombuffer(chunk.plain, np.uint8))
            self.chunks[chunk.id] = bytes(plain)

    def disk(self, entries: SpanMap, size: int) -> bytes:
        disk = bytearray(size)
        for start, length, chunk in entries:
            assert len(self.chunks[chunk]) == length
            disk[start : start + length] = self.chunks[chunk]
        return bytes(disk)


def a_span() -> bytes:
    return random_bytes("one", 40 * PAGE) + bytes(9 * PAGE) + b"text " * 50_000 + bytes(4 * PAGE) + b"end"


@pytest.mark.parametrize("compression", [Compression(codec) for codec in Codec])
def test_a_span_comes_back_from_what_was_put(compression: Compression) -> None:
    shelf, data = Shelf(), a_span()
    stored = store_span(memoryview(data), Chunking(CUTTER, KEY, compression), shelf)
    assert shelf.disk(stored.map, len(data)) == data
    assert stored.map.data_bytes == len(data) - 9 * PAGE
    assert stored.read_bytes == len(data)
    assert (stored.new_chunks, stored.new_bytes) == (len(shelf.chunks), sum(map(len, shelf.chunks.values())))


def test_an_id_is_the_keyed_hash_of_the_plain_bytes() -> None:
    shelf = Shelf()
    store_span(memoryview(a_span()), CHUNKING, shelf)
    assert all(blake3(plain, key=KEY).digest() == chunk for chunk, plain in shelf.chunks.items())


def test_memory_for_a_span_begins_at_a_page_and_is_zero() -> None:
    buffer = np.frombuffer(span_buffer(), np.uint8)
    assert len(buffer) == SPAN_BYTES
    assert buffer.ctypes.data % PAGE == 0
    assert not buffer.any()


def test_a_span_seen_before_puts_nothing_and_asks_once() -> None:
    shelf = Shelf()
    first = store_span(memoryview(a_span()), CHUNKING, shelf)
    again = store_span(memoryview(a_span()), CHUNKING, shelf)
    assert again.map == first.map
    assert (again.new_chunks, again.new_bytes) == (0, 0)
    assert shelf.questions == [len(first.map)] * 2


def test_content_that_repeats_within_a_span_is_put_once() -> None:
    shelf = Shelf()
    unit = random_bytes("unit", 6 * PAGE) + bytes(5 * PAGE)
    stored = store_span(memoryview(unit * 10), CHUNKING, shelf)
    assert stored.new_bytes == 6 * PAGE
    assert len(stored.map) == 10 * stored.new_chunks


def test_a_span_of_zeros_asks_nothing() -> None:
    shelf = Shelf()
    stored = store_span(memoryview(bytes(1 << 20)), CHUNKING, shelf)
    assert (len(stored.map), stored.map.data_bytes, shelf.questions) == (0, 0, [])


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(changes())
def test_a_map_brought_up_to_date_is_the_map_of_a_full_read(change: tuple[NDArray[np.uint8], list[Edit]]) -> None:
    before, edits = change
    after, areas = edited(before, edits)
    shelf = Shelf()
    base = store_span(before.data, CHUNKING, shelf).map

    def read(offset: int, into: memoryview) -> None:
        into[:] = after.data[offset : offset + len(into)]

    buffer = memoryview(bytearray(len(after)))
    stored = store_changes(buffer, base, areas, read=read, chunking=CHUNKING, sink=shelf)
    assert shelf.disk(stored.map, len(after)) == after.tobytes()
    assert stored.map == store_span(after.data, CHUNKING, shelf).map


def test_incrementally_the_sink_is_asked_about_fresh_chunks_only() -> None:
    data = bytearray(random_bytes("disk", 8 << 20))
    shelf = Shelf()
    base = store_span(memoryview(data), CHUNKING, shelf).map
    data[5 << 20 : (5 << 20) + 65536] = random_bytes("change", 65536)

    def read(offset: int, into: memoryview) -> None:
        into[:] = data[offset : offset + len(into)]

    areas = ExtentMap([Extent(5 << 20, (5 << 20) + 65536)])
    buffer = memoryview(bytearray(len(data)))
    stored = store_changes(buffer, base, areas, read=read, chunking=CHUNKING, sink=shelf)
    assert 0 < shelf.questions[1] < 12
    assert 65536 <= stored.new_bytes <= stored.read_bytes < 65536 + (512 << 10)


def test_a_stream_comes_back_zeros_and_all() -> None:
    shelf, data = Shelf(), a_span()
    stored = store_stream(memoryview(data), CHUNKING, shelf)
    assert stored.map.data_bytes == len(data)
    assert shelf.disk(stored.map, len(data)) == data


def test_a_stream_longer_than_a_span_is_refused() -> None:
    with pytest.raises(ValueError, match="longer than a span"):
        store_stream(memoryview(bytes(SPAN_BYTES + 1)), CHUNKING, Shelf())


def test_what_the_sink_raises_ends_the_span() -> None:
    class Full(Shelf):
        def put(self, chunks: Sequence[CompressedChunk]) -> None:
            raise NoSpace("the disk is full")

    with pytest.raises(NoSpace):
        store_span(memoryview(a_span()), CHUNKING, Full())


def test_workers_on_equal_spans_put_each_chunk_once() -> None:
    shelf, data = Shelf(), random_bytes("shared", 4 << 20)
    with ThreadPoolExecutor(4) as threads:
        stored = list(threads.map(lambda _: store_span(memoryview(data), CHUNKING, shelf), range(8)))
    assert sum(one.new_bytes for one in stored) == len(data)
    assert shelf.disk(stored[0].map, len(data)) == data


def test_a_span_map_lists_its_chunks_in_order() -> None:
    refs = [ChunkRef(0, 4096, ChunkId(b"a" * 32)), ChunkRef(65536, 512, ChunkId(b"b" * 32))]
    assert list(SpanMap.of(refs)) == refs
    assert (len(SpanMap.of([])), list(SpanMap.of([])), SpanMap.of([]).data_bytes) == (0, [], 0)


@given(
    st.lists(st.tuples(st.sampled_from([0, 0, 3]), st.integers(1, 6)), max_size=6),
    st.integers(0, 30),
    st.integers(1, 20),
)
def test_a_part_of_a_span_needs_the_chunks_that_overlap_it(
    gaps: list[tuple[int, int]], start: int, length: int
) -> None:
    refs, at = [], 0
    for gap, size in gaps:
        refs.append(ChunkRef(at + gap, size, ChunkId(bytes(32))))
        at += gap + size
    needed = [ref for ref in refs if ref.start < start + length and ref.start + ref.length > start]
    assert list(SpanMap.of(refs).overlapping(start, start + length)) == needed


def test_span_maps_are_equal_when_all_their_entries_are() -> None:
    ref = ChunkRef(0, 4096, ChunkId(b"a" * 32))
    same = SpanMap.of([ref])
    assert same == SpanMap.of([ref])
    assert hash(same) == hash(SpanMap.of([ref]))
    for other in (ref._replace(start=4096), ref._replace(length=512), ref._replace(id=ChunkId(b"b" * 32))):
        assert same != SpanMap.of([other])


def test_the_id_key_does_not_show() -> None:
    assert repr(KEY) not in repr(CHUNKING)
