"""Cutting of disks: content-defined, at page boundaries, with long runs of zero pages left out.

Owns: the rule `page-1`. It is part of the repository's format, and chunks are shared only while it stays the same:

1.  A span is cut by itself. It is a row of pages of 4096 bytes; a shorter last page is filled with zeros for the
    questions below, and keeps its true length in its piece. Integers are little-endian and wrap at 2**64.
2.  BLAKE3 of `page-1 words` keyed with the 32-byte cut secret gives 512 bytes: 64 integers of 8 bytes. A stable
    ascending sort of the first sixteen gives their positions 0 to 15 in an order p[0..15], that of the next sixteen
    p[16..31]; the last thirty-two, each with its lowest bit set, are multipliers m[0..31].
3.  A page's sum is that of m[k] * word[16 k + p[k]] for k from 0 to 31, where word[i] is the page's i-th integer: one
    word of each 128-byte block. The page's hash h is the sum, mixed: h ^= h >> 29; h *= 0xBF58476D1CE4E5B9;
    h ^= h >> 32; h += 0x9E3779B97F4A7C15; h *= 0x94D049BB133111EB.
4.  A run of at least 4 zero pages in the span is a hole. It belongs to no piece; a shorter run is data.
5.  Between holes pieces lie without gaps: each ends after the first page that is its fourth or a later one and whose
    hash is below (2**64 - 1) // 12, or after 64 pages, or where a hole or the span's end comes first.

Each position of a 128-byte block is sampled twice per page. With a fixed position, records that recur every 128 bytes
(PostgreSQL's tuples do) would show the same field 32 times, and pages that differ elsewhere would all hash alike; with
positions known to a guest it could choose its chunks' sizes, which is why a secret picks them.

Does not own: what changed since a base (`recut`), identities, reading.
"""

from bisect import bisect_left
from typing import Final

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from offhost.chunking.pieces import Piece

PAGE_BYTES: Final = 4096
MIN_PAGES: Final = 4
MAX_PAGES: Final = 64
HOLE_PAGES: Final = 4
SECRET_BYTES: Final = 32

_WORDS = PAGE_BYTES // 8
_BLOCKS = 32
_BLOCK_WORDS = _WORDS // _BLOCKS
_THRESHOLD = np.uint64((2**64 - 1) // 12)

PageFlags = NDArray[np.bool_]
"""One flag for each page of a span."""


class PageCutter:
    """The rule `page-1` under one cut secret. Immutable, so safe to share between threads.

    The heavy parts are numpy's, which release the GIL.
    """

    identity: Final = "page-1"

    def __init__(self, secret: bytes) -> None:
        if len(secret) != SECRET_BYTES:
            raise ValueError(f"a cut secret has {SECRET_BYTES} bytes, not {len(secret)}")
        derived = np.frombuffer(blake3(b"page-1 words", key=secret).digest(length=16 * _BLOCKS), "<u8")
        order = np.argsort(derived[:_BLOCKS].reshape(-1, _BLOCK_WORDS), axis=1, kind="stable").ravel()
        self._words = np.arange(_BLOCKS) * _BLOCK_WORDS + order
        self._multipliers = derived[_BLOCKS:] | np.uint64(1)

    def cut(self, data: memoryview) -> list[Piece]:
        """The pieces of one span; see the module's rule."""
        zero, ends = self.scan(data)
        candidates = end_pages(ends)
        pieces: list[Piece] = []
        for start, stop in runs(~holes(zero)):
            page = start
            while page < stop:
                end = next_end(candidates, page, stop)
                pieces.append(Piece(page * PAGE_BYTES, (end - page) * PAGE_BYTES))
                page = end
        return clip_last(pieces, len(data))

    def scan(self, data: memoryview) -> tuple[PageFlags, PageFlags]:
        """For each page of contiguous bytes: whether it is all zeros, and whether its hash may end a piece."""
        whole = len(data) // PAGE_BYTES
        parts = [np.frombuffer(data, "<u8", whole * _WORDS).reshape(-1, _WORDS)] if whole else []
        if rest := len(data) - whole * PAGE_BYTES:
            last = np.zeros((1, PAGE_BYTES), np.uint8)
            last[0, :rest] = np.frombuffer(data, np.uint8, rest, whole * PAGE_BYTES)
            parts.append(last.view("<u8"))
        if not parts:
            return np.zeros(0, np.bool_), np.zeros(0, np.bool_)
        sums = [part.take(self._words, axis=1) @ self._multipliers for part in parts]
        zero = [_zero_pages(part, part_sums) for part, part_sums in zip(parts, sums, strict=True)]
        ends: PageFlags = _mix(np.concatenate(sums)) < _THRESHOLD
        return np.concatenate(zero), ends


def _mix(sums: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Spread the entropy of a page's sum over all bits, the highest above all, in place."""
    sums ^= sums >> np.uint64(29)
    sums *= np.uint64(0xBF58476D1CE4E5B9)
    sums ^= sums >> np.uint64(32)
    sums += np.uint64(0x9E3779B97F4A7C15)
    sums *= np.uint64(0x94D049BB133111EB)
    return sums


def _zero_pages(pages: NDArray[np.uint64], sums: NDArray[np.uint64]) -> PageFlags:
    """Which pages are all zeros. Only one whose sum is zero can be, so few others are looked at."""
    zero: PageFlags = sums == 0
    suspects = np.flatnonzero(zero)
    if 4 * len(suspects) > len(pages):
        zero &= np.bitwise_or.reduce(pages, axis=1) == 0
    else:
        zero[suspects] = np.bitwise_or.reduce(pages[suspects], axis=1) == 0
    return zero


def holes(zero: PageFlags) -> PageFlags:
    """Which pages lie in a run of at least `HOLE_PAGES` zero pages."""
    edges = np.flatnonzero(np.diff(zero, prepend=False, append=False))
    starts, stops = edges[::2], edges[1::2]
    long = stops - starts >= HOLE_PAGES
    steps = np.zeros(len(zero) + 1, np.int8)
    steps[starts[long]] = 1
    steps[stops[long]] = -1
    return steps[:-1].cumsum(dtype=np.int8).view(np.bool_)


def runs(flags: PageFlags) -> list[tuple[int, int]]:
    """The longest ranges of pages whose flag is set, ascending."""
    edges = np.flatnonzero(np.diff(flags, prepend=False, append=False)).tolist()
    return list(zip(edges[::2], edges[1::2], strict=True))


def end_pages(ends: PageFlags) -> list[int]:
    """The pages that may end a piece, ascending."""
    return np.flatnonzero(ends).tolist()


def next_end(candidates: list[int], page: int, stop: int) -> int:
    """The page after the piece that begins at `page`, in data that ends at `stop`.

    `candidates` are the pages that may end a piece, ascending; all of the first `MAX_PAGES` that do must be there.
    """
    at = bisect_left(candidates, page + MIN_PAGES - 1)
    farthest = min(page + MAX_PAGES, stop)
    return min(candidates[at] + 1, farthest) if at < len(candidates) else farthest


def clip_last(pieces: list[Piece], size_bytes: int) -> list[Piece]:
    """Give the last piece, whose last page may be short, its true length; the list is changed in place."""
    if pieces and pieces[-1].end > size_bytes:
        pieces[-1] = Piece(pieces[-1].start, size_bytes - pieces[-1].start)
    return pieces
