"""The copy of one disk into a session: span by span, in worker threads.

Owns: which spans are read in full, by their changes, or kept.
Does not own: what changed (the caller knows), cutting and compression (chunking), the map's form (repository).
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from offhost.blockio import ReadAt, clear
from offhost.chunking.spans import SPAN_BYTES, Chunking, StoredSpan, store_changes, store_span
from offhost.chunking.workers import SpanWorkers, touched_spans
from offhost.errors import SessionFenced
from offhost.extents import Extent, ExtentMap
from offhost.repository.diskmap import DiskMap, DiskMapRef, DiskMapWriter
from offhost.repository.session import WriteSession

_SETTLE_ATTEMPTS = 3
_GAP_BYTES = 64 << 10
"""Gaps between allocated extents that cost less to read than to ask around."""


@dataclass(frozen=True, slots=True)
class CopyTotals:
    """What the copy of a disk amounted to, in bytes of plain content."""

    read_bytes: int = 0
    new_bytes: int = 0


@dataclass(slots=True)
class DiskCopy:
    """One disk on its way into a session. `run` may be repeated: what is there already is not stored again.

    `areas` None means a full read: every span that is not known to be all zeros. Otherwise only what they cover is
    read, and `base` is the map of the disk as it was before they changed. In a full read a base only lends its leaves.
    """

    source: ReadAt
    session: WriteSession
    chunking: Chunking
    workers: SpanWorkers
    base: DiskMap | None = None
    areas: ExtentMap | None = None
    progress: Callable[[int, int], object] = lambda *_: None
    """Told bytes done and in all, from any thread."""
    totals: CopyTotals = CopyTotals()
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _writer: DiskMapWriter = field(init=False)

    def __post_init__(self) -> None:
        size = self.source.size_bytes
        if self.areas is not None and (self.base is None or self.base.ref.size_bytes != size):
            raise ValueError("changed areas are worth nothing without a base of the same size")
        self._writer = self.session.map_writer(size, self.chunking.cutter.identity, self.base)

    def run(self, stop: threading.Event) -> None:
        """Copy. Raises: ReadFailed and what the source raises; NoSpace, IntegrityError; Stopped."""
        size = self.source.size_bytes
        wanted = (self.source.allocated() if self.areas is None else self.areas).clip(0, size)
        spans = touched_spans(wanted)
        if self.areas is not None:
            for span in set(range(len(self._writer))).difference(spans):
                self._writer.keep(span)
        total, done = wanted.total_bytes, 0
        self.progress(0, total)

        def one(span: int) -> None:
            nonlocal done
            stored, read_bytes = self._store(span, wanted)
            with self._lock:
                done += wanted.clip(span * SPAN_BYTES, (span + 1) * SPAN_BYTES).total_bytes
                self.totals = CopyTotals(self.totals.read_bytes + read_bytes, self.totals.new_bytes + stored.new_bytes)
                self.progress(done, total)

        self.workers.each(spans, one, stop)

    def _store(self, span: int, wanted: ExtentMap) -> tuple[StoredSpan, int]:
        """Store one span; what of it was read."""
        start = span * SPAN_BYTES
        buffer = self.workers.buffer()[: min(SPAN_BYTES, self.source.size_bytes - start)]
        if self.areas is None or self.base is None:
            read_bytes = self._read_allocated(start, buffer, wanted)
            stored = store_span(buffer, self.chunking, self.session)
        else:
            stored = store_changes(
                buffer,
                self.base.span(span),
                _relative(wanted, start, start + len(buffer)),
                read=lambda at, part: self.source.read_into(start + at, part),
                chunking=self.chunking,
                sink=self.session,
            )
            read_bytes = stored.read_bytes
        self._writer.set(span, stored.map)
        return stored, read_bytes

    def _read_allocated(self, start: int, buffer: memoryview, allocated: ExtentMap) -> int:
        """Fill a span, reading what is allocated and little more; how much that was."""
        at = 0
        extents = _relative(allocated, start, start + len(buffer)).bridge(_GAP_BYTES)
        for extent in extents:
            clear(buffer[at : extent.start])
            self.source.read_into(start + extent.start, buffer[extent.start : extent.end])
            at = extent.end
        clear(buffer[at:])
        return extents.total_bytes

    def finish(self) -> DiskMapRef:
        """Store the map's pages."""
        return self._writer.finish()


def settle(session: WriteSession, copies: Sequence[DiskCopy], stop: threading.Event) -> None:
    """Make durable what the copies stored. What another session promised and did not deliver is read and stored again.

    Raises: SessionFenced when the others keep failing; what made one of this session's own packs fail.
    """
    for _ in range(_SETTLE_ATTEMPTS):
        if not session.settle():
            return
        for copy in copies:
            copy.run(stop)
    raise SessionFenced("other backups in this process keep failing with chunks that this one needs")


def _relative(wanted: ExtentMap, start: int, end: int) -> ExtentMap:
    return ExtentMap(Extent(extent.start - start, extent.end - start) for extent in wanted.clip(start, end))
