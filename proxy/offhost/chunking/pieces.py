"""What a cutter gives back.

Owns: `Piece` and the one question a cutter answers. Does not own: how it decides (`pages`, `stream`).
"""

from typing import NamedTuple, Protocol


class Piece(NamedTuple):
    """A chunk's place in the bytes that were cut: `[start, start + length)`."""

    start: int
    length: int

    @property
    def end(self) -> int:
        """The first byte that is no longer the piece's."""
        return self.start + self.length


class Cutter(Protocol):
    """A deterministic rule that cuts bytes into pieces. Safe to call from several threads at once."""

    @property
    def identity(self) -> str:
        """Names the rule: two cutters of one identity and one secret cut alike, in every version of offhost."""
        ...

    def cut(self, data: memoryview) -> list[Piece]:
        """The pieces of contiguous bytes, ascending and disjoint; what none covers is zeros and is not stored."""
        ...
