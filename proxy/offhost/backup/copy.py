"""The copy of one disk into a session: span by span, in worker threads.

Owns: which spans are read in full, by their changes, or kept.
Does not own: what changed (the caller knows), cutting and compression (chunking), the map's form (repository).
"""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from offhost.backup.audit import Comparison, held_by, relative
from offhost.blockio import ReadAt, clear
from offhost.chunking.spans import SPAN_BYTES, Chunking, SpanMap, StoredSpan, store_changes, store_span
from offhost.chunking.workers import SpanWorkers, touched_spans
from offhost.errors import IntegrityError, SessionFenced
from offhost.extents import Extent, ExtentMap
from offhost.ids import DiskKey
from offhost.pacing import UNBOUND, Paces
from offhost.repository.points.diskmap import DiskMap, DiskMapWriter
from offhost.repository.points.manifest import DiskMapRef
from offhost.repository.points.restorepoint import RestorePoint
from offhost.repository.session import WriteSession
from offhost.repository.verification.healing import wounds

_log = logging.getLogger(__name__)

_SETTLE_ATTEMPTS = 3
_SCAN_WORK = 1 / 32
"""Of a span that is there already, and only cut and identified: next to sealing one, and to starting a process."""
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

    `areas` None means a full read: every span that is not known to be all zeros. Otherwise what they cover is read,
    and what heals known damage, and `base` is the map of the disk as it was before they changed. In a full read a base
    only lends its leaves, unless `audit` is there: then all of the disk is compared with it.
    """

    source: ReadAt
    session: WriteSession
    chunking: Chunking
    workers: SpanWorkers
    base: DiskMap | None = None
    areas: ExtentMap | None = None
    audit: Comparison | None = None
    progress: Callable[[int, int], object] = lambda *_: None
    """Told bytes done and in all, from any thread."""
    paces: Paces = UNBOUND
    """How fast the source may be read."""
    totals: CopyTotals = CopyTotals()
    wounds: ExtentMap | None = None
    """What is read beside the areas because the repository has no good copy of it; None until `run` has looked."""
    unreported: ExtentMap = field(default_factory=ExtentMap)
    """What the audit found to have changed unsaid."""
    pulse: int = 0
    """Grows with each span that is begun or done."""
    pausing: bool = False
    """Whether the paces let nothing be read just now."""
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
        wanted = self._wanted(stop).clip(0, size)
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
                self.pulse += 1
                done += wanted.clip(span * SPAN_BYTES, (span + 1) * SPAN_BYTES).total_bytes
                self.totals = CopyTotals(self.totals.read_bytes + read_bytes, self.totals.new_bytes + stored.new_bytes)
                self.progress(done, total)

        self.workers.each(self._paced(spans, wanted, stop), one, stop)

    def _paced(self, spans: Sequence[int], wanted: ExtentMap, stop: threading.Event) -> Iterator[int]:
        """Each span when it may be read; only the disk's own thread waits for it."""
        for span in spans:
            self.pausing = True
            self.paces.take(wanted.clip(span * SPAN_BYTES, (span + 1) * SPAN_BYTES).total_bytes, stop)
            with self._lock:
                self.pulse += 1
            self.pausing = False
            yield span

    def _wanted(self, stop: threading.Event) -> ExtentMap:
        if self.areas is None or self.base is None:
            held = held_by(self.audit.base) if self.audit else ()  # of what was freed unsaid nothing may be allocated
            return self.source.allocated().union(ExtentMap(held))
        if self.wounds is None:
            self.wounds = wounds(self.base, self.session, stop)
        return self.areas.union(self.wounds)

    def _store(self, span: int, wanted: ExtentMap) -> tuple[StoredSpan, int]:
        """Store one span; what of it was read."""
        start = span * SPAN_BYTES
        end = min(start + SPAN_BYTES, self.source.size_bytes)
        before = self._span_of_base(span)
        if self.areas is None or before is None:
            stored, read_bytes = self._store_all(start, end, wanted if self.areas is None else ExtentMap.whole(end))
        else:
            stored = store_changes(
                self.workers.buffer()[: end - start],
                before,
                relative(wanted, start, end),
                read=lambda at, part: self.source.read_into(start + at, part),
                chunking=self.chunking,
                sink=self.session,
            )
            read_bytes = stored.read_bytes
        self._writer.set(span, stored.map)
        return stored, read_bytes

    def _store_all(self, start: int, end: int, allocated: ExtentMap) -> tuple[StoredSpan, int]:
        """Store a span as it is; what of it was read."""
        with self.session.hands.lent(1 if self.base is None else _SCAN_WORK) as hand:
            buffer = (hand.span if hand else self.workers.buffer())[: end - start]
            read_bytes = self._read_allocated(start, buffer, allocated)
            if hand:
                stored = self.session.store_span(hand, len(buffer), self.chunking)
            else:
                stored = store_span(buffer, self.chunking, self.session)
            if self.audit:
                self._compare(self.audit, start, buffer, stored.map)
            return stored, read_bytes

    def _compare(self, audit: Comparison, start: int, buffer: memoryview, now: SpanMap) -> None:
        """Compare a span that lies in memory whole."""

        def read(at: int, part: memoryview) -> None:
            part[:] = buffer[at : at + len(part)]

        whole = ExtentMap.whole(len(buffer))
        found = audit.differing(start // SPAN_BYTES, whole, read, now)
        differing = ExtentMap(Extent(start + extent.start, start + extent.end) for extent in found)
        with self._lock:
            self.unreported = self.unreported.union(differing)

    def _span_of_base(self, span: int) -> SpanMap | None:
        """What the span was; None where the base does not tell any more, so that all of the span must be read."""
        try:
            return self.base.span(span) if self.base and self.areas is not None else None
        except IntegrityError as error:
            _log.warning("the base of span %d is damaged, so it is read in full: %s", span, error)
            return None

    def _read_allocated(self, start: int, buffer: memoryview, allocated: ExtentMap) -> int:
        """Fill a span, reading what is allocated and little more; how much that was."""
        at = 0
        extents = relative(allocated, start, start + len(buffer)).bridge(_GAP_BYTES)
        for extent in extents:
            clear(buffer[at : extent.start])
            self.source.read_into(start + extent.start, buffer[extent.start : extent.end])
            at = extent.end
        clear(buffer[at:])
        return extents.total_bytes

    def finish(self) -> DiskMapRef:
        """Store the map's pages."""
        return self._writer.finish()


def map_of(base: RestorePoint | None, key: DiskKey) -> DiskMap | None:
    """The map that the last point has of a disk; None when there is none, or it is damaged, which is then logged."""
    disk = base.manifest.disk(key) if base else None
    try:
        return base.map(disk) if base and disk else None
    except IntegrityError as error:
        _log.warning("the last backup of disk %s is damaged: %s", key, error)
        return None


def healed(session: WriteSession, copies: Iterable[DiskCopy]) -> list[str]:
    """What a report says when damage in the repository was healed on the way: nothing where there is none."""
    again = sum(copy.wounds.total_bytes for copy in copies if copy.wounds is not None)
    if not session.replaced and not again:
        return []
    amount = f"{session.replaced} chunks, {again / (1 << 20):.1f} MiB read for it"
    return [f"damage in the repository was healed from the disks: {amount}; `offhost repo verify` tells what is left"]


def settle(session: WriteSession, again: Sequence[Callable[[], object]], stop: threading.Event) -> None:
    """Make durable what was stored. What another session promised and did not deliver is stored again: `again` stores
    everything that this session has stored so far, of which only that is then missing.

    Raises: SessionFenced when the others keep failing; what made one of this session's own packs fail; Stopped.
    """
    for _ in range(_SETTLE_ATTEMPTS):
        if not session.settle(stop):
            return
        for store in again:
            store()
    if session.settle(stop):
        raise SessionFenced("other backups in this process keep failing with chunks that this one needs")
