"""A cut-out place in a row of bytes: what every cutter gives back."""

from typing import NamedTuple


class Piece(NamedTuple):
    """A chunk's place in the bytes that were cut: `[start, start + length)`."""

    start: int
    length: int

    @property
    def end(self) -> int:
        """The first byte that is no longer the piece's."""
        return self.start + self.length
