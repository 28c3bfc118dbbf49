"""The pieces of a disk laid end to end, one level of a delta chain upon the other.

Owns: which piece answers for which bytes. Does not own: formats (grains, stream), files (beneath).
"""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Protocol

from offhost.blockio import ReadAt, check_range, clear
from offhost.extents import Extent, ExtentMap


class Piece(Protocol):
    """One extent of one level. Thread-safe."""

    @property
    def size_bytes(self) -> int:
        """Bytes of the disk that it covers."""
        ...

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the buffer, from the level below where this one holds nothing."""
        ...

    def allocated(self) -> ExtentMap:
        """A superset of what this piece itself holds; what the level below holds is the layer's to add."""
        ...


class Zeros:
    """A piece, or a disk, that reads as zeros."""

    def __init__(self, size_bytes: int) -> None:
        self._size = size_bytes

    @property
    def size_bytes(self) -> int:
        """Bytes that can be read."""
        return self._size

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Clear the buffer."""
        check_range(offset, len(buffer), self._size)
        clear(buffer)

    def allocated(self) -> ExtentMap:
        """Nothing."""
        return ExtentMap()

    def close(self) -> None:
        """Nothing is held."""


class Layer:
    """One level of a disk: its pieces from byte 0 on, over the level below. Thread-safe as its pieces are.

    Whoever opened the files closes them: a layer holds none.
    """

    def __init__(self, pieces: Sequence[Piece], below: ReadAt | None = None) -> None:
        self._pieces = tuple(pieces)
        self._ends = list(accumulate(piece.size_bytes for piece in pieces))
        self._below = below

    @property
    def size_bytes(self) -> int:
        """The disk's size."""
        return self._ends[-1]

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the buffer, piece by piece."""
        check_range(offset, len(buffer), self.size_bytes)
        done = 0
        while done < len(buffer):
            at = bisect_right(self._ends, offset + done)
            end = min(len(buffer), self._ends[at] - offset)
            start = self._ends[at] - self._pieces[at].size_bytes
            self._pieces[at].read_into(offset + done - start, buffer[done:end])
            done = end

    def allocated(self) -> ExtentMap:
        """What any piece or the level below holds."""
        extents = list(self._below.allocated()) if self._below else []
        for piece, end in zip(self._pieces, self._ends, strict=True):
            start = end - piece.size_bytes
            extents.extend(Extent(start + held.start, start + held.end) for held in piece.allocated())
        return ExtentMap(extents)

    def close(self) -> None:
        """Nothing is held."""
