"""Cutting of a span of which only some areas changed since it was cut before, reading little more than those.

Owns: what must be read and cut anew so that the result equals a cut of the whole span, and which old pieces stay.
Does not own: the rule (`pages`), what changed, identities.

Why it is right. A page's part in a hole depends on its run of zero pages alone. A page four or more away from every
changed area is in a hole now exactly when it was before: a zero run that reaches from it to an area has four unchanged
pages on its own side. So the areas are widened by three pages and read, and beyond them the old map tells holes.
A piece's end depends on the piece's own pages and on whether a hole follows. So an old piece stays where a new one
begins at the same page, none of its pages changed or became a hole, and a hole that ended it is still there; from any
other place pages are cut anew until a cut falls on such a piece. While cutting has not met an old cut again, all bytes
up to the next old cut belong to new pieces, so reading that far reads nothing in vain.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from offhost.chunking.pages import (
    HOLE_PAGES,
    MAX_PAGES,
    MIN_PAGES,
    PAGE_BYTES,
    PageCutter,
    PageFlags,
    clip_last,
    holes,
    runs,
)
from offhost.chunking.pieces import Piece
from offhost.extents import ExtentMap

ReadRange = Callable[[int, memoryview], None]
"""Fills a buffer with the span's bytes from an offset in the span on."""


@dataclass(frozen=True, slots=True)
class Recut:
    """The pieces of a span after a change, equal to those of a full cut.

    `kept[i]` is the position among the old pieces of the one that `pieces[i]` still is, None where its bytes were
    read. `read_bytes` were read, which is all fresh pieces and some pages beside the changed areas.
    """

    pieces: list[Piece]
    kept: list[int | None]
    read_bytes: int


class _PartlyRead:
    """A span's buffer, what is known of its pages, and how to know more."""

    def __init__(self, cutter: PageCutter, buffer: memoryview, read: ReadRange) -> None:
        self._cutter, self._buffer, self._read = cutter, buffer, read
        self.read_bytes = 0
        pages = -(-len(buffer) // PAGE_BYTES)
        self.known = np.zeros(pages, np.bool_)
        self.zero = np.zeros(pages, np.bool_)
        self.ends = np.zeros(pages, np.bool_)

    def learn(self, start: int, stop: int) -> None:
        """Read and scan those pages of a range that are not known yet."""
        for first, last in runs(~self.known[start:stop]):
            self._learn_run(start + first, start + last)

    def _learn_run(self, start: int, stop: int) -> None:
        data = self._buffer[start * PAGE_BYTES : stop * PAGE_BYTES]
        self._read(start * PAGE_BYTES, data)
        self.zero[start:stop], self.ends[start:stop] = self._cutter.scan(data)
        self.known[start:stop] = True
        self.read_bytes += len(data)


class _OldCuts:
    """The pieces of a span as it was, in pages."""

    def __init__(self, pieces: Sequence[Piece], size_bytes: int) -> None:
        places = np.array(pieces, np.int64).reshape(-1, 2)
        starts, ends = places[:, 0], places.sum(axis=1)
        in_order = np.all(starts < ends) and np.all(np.append(0, ends[:-1]) <= starts) and np.all(ends <= size_bytes)
        aligned = np.all(starts % PAGE_BYTES == 0) and np.all((ends % PAGE_BYTES == 0) | (ends == size_bytes))
        if not (in_order and aligned):
            raise ValueError(f"these are not the pieces of a span of {size_bytes} bytes")
        self.firsts, self.stops = starts // PAGE_BYTES, -(-ends // PAGE_BYTES)
        self.hole = np.ones(-(-size_bytes // PAGE_BYTES), np.bool_)
        for first, stop in zip(self.firsts.tolist(), self.stops.tolist(), strict=True):
            self.hole[first:stop] = False

    def holding(self, area: PageFlags) -> PageFlags:
        """All pages of those pieces that have a page in `area`."""
        held = np.zeros_like(area)
        for at in np.flatnonzero(_any_between(area, self.firsts, self.stops)):
            held[self.firsts[at] : self.stops[at]] = True
        return held

    def unaffected(self, area: PageFlags, hole: PageFlags) -> dict[int, int]:
        """The pieces that stay if a new one begins where they do, as first page to position.

        `area` are the pages that may have changed, `hole` those that lie in holes now.
        """
        filled = np.append(self.hole & ~hole, np.False_)
        affected = _any_between(area | (hole & ~self.hole), self.firsts, self.stops) | filled[self.stops]
        kept = np.flatnonzero(~affected)
        return dict(zip(self.firsts[kept].tolist(), kept.tolist(), strict=True))


def recut(
    cutter: PageCutter, buffer: memoryview, old: Sequence[Piece], changed: ExtentMap, *, read: ReadRange
) -> Recut:
    """The pieces of a span that was cut into `old` by the same cutter and changed nowhere but in `changed`.

    `buffer` is as long as the span, which must have had the same size before. What `read` fills in lies at its own
    offset in it, so a fresh piece's bytes are found there; the rest of the buffer is not looked at. `changed` is
    relative to the span.
    Raises: ValueError when `old` cannot be the pieces of such a span; whatever `read` raises.
    """
    cuts = _OldCuts(old, len(buffer))
    span = _PartlyRead(cutter, buffer, read)
    area = _pages_of(changed, len(buffer))
    for start, stop in runs(_widened(area) | cuts.holding(area)):
        span.learn(start, stop)
    hole = holes(np.where(span.known, span.zero, cuts.hole))
    unaffected = cuts.unaffected(area, hole)
    old_cuts = np.union1d(cuts.firsts, cuts.stops).tolist()
    pieces: list[Piece] = []
    kept: list[int | None] = []
    for start, stop in runs(~hole):
        page = start
        while page < stop:
            at = unaffected.get(page)
            end = _fresh_end(span, page, stop, old_cuts) if at is None else int(cuts.stops[at])
            pieces.append(Piece(page * PAGE_BYTES, (end - page) * PAGE_BYTES))
            kept.append(at)
            page = end
    return Recut(clip_last(pieces, len(buffer)), kept, span.read_bytes)


def _fresh_end(span: _PartlyRead, page: int, stop: int, old_cuts: list[int]) -> int:
    """The page after the new piece that begins at `page`; reads on from one old cut to the next while it must."""
    farthest = min(page + MAX_PAGES, stop)
    earliest = page + MIN_PAGES - 1
    reach = earliest
    while reach < farthest:
        at = bisect_left(old_cuts, reach + 1)
        reach = min(old_cuts[at], farthest) if at < len(old_cuts) else farthest
        span.learn(page, reach)
        found = np.flatnonzero(span.ends[earliest:reach])
        if len(found):
            return earliest + int(found[0]) + 1
    span.learn(page, farthest)
    return farthest


def _pages_of(changed: ExtentMap, size_bytes: int) -> PageFlags:
    """The pages that hold a changed byte."""
    area = np.zeros(-(-size_bytes // PAGE_BYTES), np.bool_)
    for extent in changed:
        area[extent.start // PAGE_BYTES : -(-extent.end // PAGE_BYTES)] = True
    return area


def _widened(area: PageFlags) -> PageFlags:
    """The pages within `HOLE_PAGES - 1` of the area."""
    wide = area.copy()
    for step in range(1, HOLE_PAGES):
        wide[step:] |= area[:-step]
        wide[:-step] |= area[step:]
    return wide


def _any_between(flags: PageFlags, starts: np.ndarray, stops: np.ndarray) -> PageFlags:
    """For each range of pages, whether a flag is set in it."""
    before = np.append(0, np.cumsum(flags))
    between: PageFlags = before[starts] != before[stops]
    return between
