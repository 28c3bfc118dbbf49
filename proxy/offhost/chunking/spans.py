"""The span pipeline: cut, identify, ask once what is missing, compress and hand over only that.

Owns: the span's size, its map of chunks, the contract with whoever takes the chunks (`ChunkSink`).
Does not own: reading the disk, threads, sealing, what "missing" means, how a span map is stored.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from mmap import mmap
from typing import NamedTuple, Protocol

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from offhost.chunking.compress import Codec, Compression
from offhost.chunking.pages import PageCutter
from offhost.chunking.pieces import Piece
from offhost.chunking.recut import ReadRange, recut
from offhost.chunking.stream import StreamCutter
from offhost.extents import ExtentMap
from offhost.ids import ChunkId

SPAN_BYTES = 32 << 20
"""A disk is cut anew at every multiple of this: the unit of parallel work and of a disk map's leaves."""

ID_BYTES = 32

_BATCH_BYTES = 1 << 20
"""Plain bytes handed to the sink at a time: little enough to be still in the processor's cache when it seals them."""


def span_buffer() -> memoryview:
    """Memory for one span, zeroed and page-aligned, to be used again and again.

    Aligned because processors with fast `rep movsb` copy from the page cache at a third of their speed to an address
    16 bytes into a page, which is where a large bytearray or numpy array begins.
    """
    return memoryview(mmap(-1, SPAN_BYTES))


@dataclass(frozen=True, slots=True)
class CompressedChunk:
    """A chunk on its way to a sink.

    `data` and `plain` may lie in buffers that are used again: both are valid only while `put` runs.
    """

    id: ChunkId
    codec: Codec
    plain_bytes: int
    data: bytes | memoryview
    plain: memoryview


class ChunkSink(Protocol):
    """Where chunks go: a repository's write session, or an agent's connection to the proxy.

    Thread-safe: several workers ask and put at once.
    """

    def missing(self, ids: Sequence[ChunkId], lengths: Sequence[int]) -> Sequence[int]:
        """Which of these chunks the caller must put, as ascending positions in `ids`.

        Ids may repeat: only the first occurrence is ever named. A chunk that another worker has been told to put is
        not missing. The caller must put all that is named; when it cannot, what it was storing must not be committed.
        `lengths` are the chunks' plain bytes.
        """
        ...

    def put(self, chunks: Sequence[CompressedChunk]) -> None:
        """Take chunks that `missing` named. May block to bound memory."""
        ...


class ChunkRef(NamedTuple):
    """One chunk of a span: where it begins in the span, its plain bytes, its id."""

    start: int
    length: int
    id: ChunkId


@dataclass(frozen=True, slots=True, eq=False)
class SpanMap:
    """The chunks of one span, ascending and disjoint; what lies between them reads as zeros.

    `starts` (relative to the span) and `lengths` are uint32 arrays of n, `ids` is a uint8 array of n by 32.
    """

    starts: NDArray[np.uint32]
    lengths: NDArray[np.uint32]
    ids: NDArray[np.uint8]

    @classmethod
    def of(cls, refs: Sequence[ChunkRef]) -> "SpanMap":
        """The map that lists `refs`."""
        ids = np.frombuffer(b"".join(ref.id for ref in refs), np.uint8).reshape(-1, ID_BYTES)
        starts = np.fromiter((ref.start for ref in refs), np.uint32, len(refs))
        return cls(starts, np.fromiter((ref.length for ref in refs), np.uint32, len(refs)), ids)

    def __len__(self) -> int:
        return len(self.starts)

    def __iter__(self) -> Iterator[ChunkRef]:
        ids = self.ids.tobytes()
        for at, (start, length) in enumerate(zip(self.starts.tolist(), self.lengths.tolist(), strict=True)):
            yield ChunkRef(start, length, ChunkId(ids[at * ID_BYTES : (at + 1) * ID_BYTES]))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SpanMap):
            return NotImplemented
        return (
            np.array_equal(self.starts, other.starts)
            and np.array_equal(self.lengths, other.lengths)
            and np.array_equal(self.ids, other.ids)
        )

    def __hash__(self) -> int:
        return hash((self.starts.tobytes(), self.lengths.tobytes(), self.ids.tobytes()))

    def overlapping(self, start: int, end: int) -> "SpanMap":
        """The chunks that have bytes in `[start, end)`."""
        first = np.searchsorted(self.starts + self.lengths, start, "right")
        stop = np.searchsorted(self.starts, end, "left")
        return SpanMap(self.starts[first:stop], self.lengths[first:stop], self.ids[first:stop])

    @property
    def data_bytes(self) -> int:
        """Bytes that are not holes."""
        return int(self.lengths.sum(dtype=np.uint64))


@dataclass(frozen=True, slots=True)
class StoredSpan:
    """A span whose missing chunks were handed to the sink.

    `read_bytes` were looked at, `new_chunks` with `new_bytes` of plaintext were put.
    """

    map: SpanMap
    read_bytes: int
    new_chunks: int
    new_bytes: int


@dataclass(frozen=True, slots=True)
class Chunking:
    """How one repository makes chunks of bytes. Immutable, so safe to share between threads."""

    cutter: PageCutter
    id_key: bytes = field(repr=False)
    compression: Compression


def identify(plain: memoryview, id_key: bytes) -> ChunkId:
    """A chunk's identity: BLAKE3 of its plain bytes, keyed with the repository's 32-byte id key."""
    return ChunkId(blake3(plain, key=id_key).digest())


def store_span(span: memoryview, chunking: Chunking, sink: ChunkSink) -> StoredSpan:
    """Cut a span read in full, and put what the sink misses of it.

    `span` holds contiguous plain bytes and must not change meanwhile. Safe to call from several threads at once, each
    with a span of its own. Raises what the sink raises; then the sink may miss chunks that it was promised.
    """
    return _stored(span, identified(span, chunking), chunking, sink)


def identified(span: memoryview, chunking: Chunking) -> list[ChunkRef]:
    """The chunks of a span read in full."""
    return _identified(span, chunking.cutter.cut(span), chunking)


def store_stream(stream: memoryview, chunking: Chunking, sink: ChunkSink) -> StoredSpan:
    """Cut a whole file of at most `SPAN_BYTES` where nothing is aligned, and put what the sink misses of it.

    Raises: ValueError for a longer one; whatever the sink raises.
    """
    if len(stream) > SPAN_BYTES:
        raise ValueError(f"a stream of {len(stream)} bytes is longer than a span")
    return _stored(stream, _identified(stream, StreamCutter().cut(stream), chunking), chunking, sink)


def store_changes(
    buffer: memoryview, base: SpanMap, changed: ExtentMap, *, read: ReadRange, chunking: Chunking, sink: ChunkSink
) -> StoredSpan:
    """Bring a span's map up to date where it changed, and put what the sink misses of that.

    The result is the one that `store_span` would give for the whole span, provided that `base` is the span's map by
    the same cutter and id key, that the span's size is the same, and that nothing outside `changed` (relative to the
    span) differs. `buffer` is as long as the span; what is read lies in it at its own offset. The sink is not asked
    about chunks that stay: that they exist is the caller's to know. Raises what `read` and the sink raise.
    """
    old = [Piece(start, length) for start, length in zip(base.starts.tolist(), base.lengths.tolist(), strict=True)]
    cut = recut(chunking.cutter, buffer, old, changed, read=read)
    fresh = _identified(buffer, [piece for piece, at in zip(cut.pieces, cut.kept, strict=True) if at is None], chunking)
    new = _put_missing(buffer, fresh, chunking.compression, sink)
    kept = [at for at in cut.kept if at is not None]
    return StoredSpan(_merged(base, kept, SpanMap.of(fresh)), cut.read_bytes, len(new), sum(ref.length for ref in new))


def _stored(span: memoryview, refs: Sequence[ChunkRef], chunking: Chunking, sink: ChunkSink) -> StoredSpan:
    new = _put_missing(span, refs, chunking.compression, sink)
    return StoredSpan(SpanMap.of(refs), len(span), len(new), sum(ref.length for ref in new))


def _merged(base: SpanMap, kept: Sequence[int], fresh: SpanMap) -> SpanMap:
    """The chunks of `base` that stay and those of `fresh`, in the order they lie."""
    starts = np.concatenate([base.starts[kept], fresh.starts])
    lengths = np.concatenate([base.lengths[kept], fresh.lengths])
    order = np.argsort(starts, kind="stable")
    return SpanMap(starts[order], lengths[order], np.concatenate([base.ids[kept], fresh.ids])[order])


def _identified(span: memoryview, pieces: Sequence[Piece], chunking: Chunking) -> list[ChunkRef]:
    key = chunking.id_key
    return [ChunkRef(start, length, identify(span[start : start + length], key)) for start, length in pieces]


def compressed(span: memoryview, ref: ChunkRef, compression: Compression) -> CompressedChunk:
    """A chunk of a span, ready to be put."""
    plain = span[ref.start : ref.start + ref.length]
    codec, data = compression.compress(plain)
    return CompressedChunk(ref.id, codec, ref.length, data, plain)


def _put_missing(
    span: memoryview, refs: Sequence[ChunkRef], compression: Compression, sink: ChunkSink
) -> list[ChunkRef]:
    """Ask once, compress and hand over only what is missing; that is what comes back."""
    missing = sink.missing([ref.id for ref in refs], [ref.length for ref in refs]) if refs else ()
    new = [refs[at] for at in missing]
    batch: list[CompressedChunk] = []
    batch_bytes = 0
    for ref in new:
        batch.append(compressed(span, ref, compression))
        batch_bytes += ref.length
        if batch_bytes >= _BATCH_BYTES:
            sink.put(batch)
            batch, batch_bytes = [], 0
    if batch:
        sink.put(batch)
    return new
