"""Byte ranges of a disk, and ordered sets of them.

Owns: the algebra (union, minus, clip). Pure; property tests hold it against a bytearray.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Extent:
    """A half-open byte range `[start, end)`; `0 <= start <= end`."""

    start: int
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end:
            raise ValueError(f"not an extent: [{self.start}, {self.end})")

    @property
    def length(self) -> int:
        """Bytes covered."""
        return self.end - self.start


class ExtentMap:
    """An immutable, ordered, disjoint, coalesced set of non-empty extents."""

    __slots__ = ("_ends", "_starts")

    def __init__(self, extents: Iterable[Extent] = ()) -> None:
        starts: list[int] = []
        ends: list[int] = []
        for extent in sorted(extent for extent in extents if extent.length):
            if ends and extent.start <= ends[-1]:
                ends[-1] = max(ends[-1], extent.end)
            else:
                starts.append(extent.start)
                ends.append(extent.end)
        self._starts, self._ends = starts, ends

    @classmethod
    def whole(cls, size_bytes: int) -> "ExtentMap":
        """All of a disk of `size_bytes`."""
        return cls([Extent(0, size_bytes)])

    def __iter__(self) -> Iterator[Extent]:
        return (Extent(start, end) for start, end in zip(self._starts, self._ends, strict=True))

    def __len__(self) -> int:
        return len(self._starts)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ExtentMap):
            return NotImplemented
        return self._starts == other._starts and self._ends == other._ends

    def __hash__(self) -> int:
        return hash((tuple(self._starts), tuple(self._ends)))

    def __repr__(self) -> str:
        return f"ExtentMap({list(self)!r})"

    @property
    def total_bytes(self) -> int:
        """Bytes covered by all extents."""
        return sum(self._ends) - sum(self._starts)

    def __contains__(self, offset: int) -> bool:
        at = bisect_right(self._starts, offset) - 1
        return at >= 0 and offset < self._ends[at]

    def union(self, other: "ExtentMap") -> "ExtentMap":
        """What either covers."""
        return ExtentMap([*self, *other])

    def clip(self, start: int, end: int) -> "ExtentMap":
        """What is covered within `[start, end)`."""
        first = max(bisect_right(self._starts, start) - 1, 0)
        clipped: list[Extent] = []
        for at in range(first, len(self._starts)):
            if self._starts[at] >= end:
                break
            low, high = max(self._starts[at], start), min(self._ends[at], end)
            if low < high:
                clipped.append(Extent(low, high))
        return ExtentMap(clipped)

    def minus(self, other: "ExtentMap") -> "ExtentMap":
        """What this covers and the other does not."""
        left: list[Extent] = []
        for extent in self:
            at = extent.start
            for hole in other.clip(extent.start, extent.end):
                if at < hole.start:
                    left.append(Extent(at, hole.start))
                at = hole.end
            if at < extent.end:
                left.append(Extent(at, extent.end))
        return ExtentMap(left)

    def bridge(self, gap_bytes: int) -> "ExtentMap":
        """The same with gaps of at most `gap_bytes` between extents closed."""
        joined: list[Extent] = []
        for extent in self:
            if joined and extent.start - joined[-1].end <= gap_bytes:
                joined[-1] = Extent(joined[-1].start, extent.end)
            else:
                joined.append(extent)
        return ExtentMap(joined)
