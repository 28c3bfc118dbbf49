"""The audit of change tracking: what it says did not change is compared with the last backup.

Owns: which unchanged areas are looked at, and the comparison of a disk's bytes with its map. No content is fetched from
the repository but of chunks that lie partly in what changed: a chunk's id is the digest of its bytes.
Does not own: when an audit is due (base), what follows from a difference (vm).
"""

import logging
import random
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import numpy as np

from offhost.blockio import ReadAt
from offhost.chunking.recut import ReadRange
from offhost.chunking.spans import SPAN_BYTES, ChunkRef, SpanMap, identify
from offhost.errors import IntegrityError, Stopped
from offhost.extents import Extent, ExtentMap
from offhost.ids import ChunkId
from offhost.pacing import UNBOUND, Paces
from offhost.repository.points.diskmap import DiskMap

_log = logging.getLogger(__name__)

_CHANCE = random.SystemRandom()

AuditRead = Literal["sample", "all"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How much of a disk a sample looks at: `blocks` of `block_bytes`, one at random in each of as many equal parts.

    With S bytes held and said to be unchanged, of which any L differ, it finds a difference with a probability of at
    least 1 - (1 - L/S)^blocks; with S of at most blocks * block_bytes, always. The places are drawn anew from the
    system's source of randomness each time, so nothing that writes to a disk can know them.
    """

    blocks: int = 1024
    block_bytes: int = 256 << 10


@dataclass(frozen=True, slots=True)
class AuditPolicy:
    """How often a disk is audited, and how much of it."""

    every: timedelta = timedelta(days=30)
    read: AuditRead = "sample"


@dataclass(frozen=True, slots=True)
class Audited:
    """What an audit looked at and found, in bytes of the disk."""

    compared_bytes: int
    unreported: ExtentMap
    """What differs although change tracking said that it did not change."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A disk beside its map at the base, `changed` since as change tracking says. Thread-safe."""

    base: DiskMap
    changed: ExtentMap
    id_key: bytes
    plain: Callable[[ChunkId], bytes]
    """Fetches a chunk from the repository. May raise IntegrityError."""

    def differing(self, span: int, within: ExtentMap, read: ReadRange, now: SpanMap | None = None) -> Iterator[Extent]:
        """Where a span differs from the base inside `within`, outside of what changed; relative to the span.

        `read` fills a buffer from an offset in the span on. `now` spares the chunks that a fresh cut of the span has,
        too. What the base holds in damaged chunks cannot be compared, and counts as equal: the copy reads it anyway.
        """
        try:
            before = self.base.span(span)
        except IntegrityError as error:
            _log.warning("the base of span %d is damaged, so that no audit can compare it: %s", span, error)
            return
        start = span * SPAN_BYTES
        changed = relative(self.changed, start, min(start + SPAN_BYTES, self.base.ref.size_bytes))
        same = frozenset(now) if now is not None else frozenset()
        chunks = [ref for area in within for ref in before.overlapping(area.start, area.end)]
        for ref in dict.fromkeys(chunks):
            if ref not in same:
                yield from self._differing_chunk(ref, changed, read)
        for gap in within.minus(_extents(chunks)).minus(changed):
            if np.frombuffer(_filled(gap, read), np.uint8).any():
                yield gap

    def _differing_chunk(self, ref: ChunkRef, changed: ExtentMap, read: ReadRange) -> Iterator[Extent]:
        """A chunk as a whole by its digest; one that changed in part by what the repository has of it."""
        whole = Extent(ref.start, ref.start + ref.length)
        touched = changed.clip(whole.start, whole.end)
        if not touched:
            if identify(_filled(whole, read), self.id_key) != ref.id:
                yield whole
            return
        left = ExtentMap([whole]).minus(touched)
        if not left:
            return
        try:
            plain = self.plain(ref.id)
        except IntegrityError:
            return
        for part in left if len(plain) == ref.length else ():
            if plain[part.start - ref.start : part.end - ref.start] != _filled(part, read):
                yield part


def sample(
    source: ReadAt,
    compared: Comparison,
    stop: threading.Event,
    *,
    paces: Paces = UNBOUND,
    sampling: Sampling = Sampling(),
    chance: random.Random = _CHANCE,
) -> Audited:
    """Read blocks of what is held and said to be unchanged, no faster than `paces` allow, and compare. Blocking.

    Whole chunks are read, so up to a chunk more at both ends of a block.
    Raises: ReadFailed and what the source raises; Stopped.
    """
    pool = list(_held(source, compared.base).minus(compared.changed))
    unreported: list[Extent] = []
    compared_bytes = 0
    for block in _drawn(pool, sampling, chance):
        paces.take(block.total_bytes, stop)
        if stop.is_set():
            raise Stopped("the audit was stopped")
        compared_bytes += block.total_bytes
        for span, within in _by_span(block):
            start = span * SPAN_BYTES
            read = _reader(source, start)
            found = compared.differing(span, within, read)
            unreported += [Extent(start + extent.start, start + extent.end) for extent in found]
    return Audited(compared_bytes, ExtentMap(unreported))


def relative(areas: ExtentMap, start: int, end: int) -> ExtentMap:
    """What of `areas` lies in `[start, end)`, told from `start` on."""
    return ExtentMap(Extent(extent.start - start, extent.end - start) for extent in areas.clip(start, end))


def held_by(base: DiskMap) -> list[Extent]:
    """The spans of which a map holds anything."""
    size = base.ref.size_bytes
    spans = (span for span in range(len(base)) if base.leaf(span) is not None)
    return [Extent(span * SPAN_BYTES, min((span + 1) * SPAN_BYTES, size)) for span in spans]


def _held(source: ReadAt, base: DiskMap) -> ExtentMap:
    """What the disk has allocated, and the spans that the base holds and of which the disk has nothing any more."""
    allocated = source.allocated().clip(0, base.ref.size_bytes)
    freed = (extent for extent in held_by(base) if not allocated.clip(extent.start, extent.end))
    return allocated.union(ExtentMap(freed))


def _drawn(pool: list[Extent], sampling: Sampling, chance: random.Random) -> Iterator[ExtentMap]:
    """One block of each of the equal parts of the pool, laid end to end."""
    total = sum(extent.length for extent in pool)
    count = -(-total // sampling.block_bytes)
    parts = min(count, sampling.blocks)
    at, begun = iter(pool), 0
    extent = next(at, None)
    for part in range(parts):
        number = chance.randrange(part * count // parts, (part + 1) * count // parts)
        low = number * sampling.block_bytes
        high = min(low + sampling.block_bytes, total)
        pieces: list[Extent] = []
        while extent is not None and begun < high:
            begin, end = max(low, begun), min(high, begun + extent.length)
            if begin < end:
                pieces.append(Extent(extent.start + begin - begun, extent.start + end - begun))
            if begun + extent.length > high:
                break
            begun += extent.length
            extent = next(at, None)
        yield ExtentMap(pieces)


def _by_span(block: ExtentMap) -> Iterator[tuple[int, ExtentMap]]:
    spans = sorted(
        {span for extent in block for span in range(extent.start // SPAN_BYTES, -(-extent.end // SPAN_BYTES))}
    )
    return ((span, relative(block, span * SPAN_BYTES, (span + 1) * SPAN_BYTES)) for span in spans)


def _reader(source: ReadAt, start: int) -> ReadRange:
    return lambda at, part: source.read_into(start + at, part)


def _extents(chunks: Iterable[ChunkRef]) -> ExtentMap:
    return ExtentMap(Extent(ref.start, ref.start + ref.length) for ref in chunks)


def _filled(extent: Extent, read: ReadRange) -> memoryview:
    buffer = memoryview(bytearray(extent.length))
    read(extent.start, buffer)
    return buffer
