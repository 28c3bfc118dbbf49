"""A view of everything that the index knows, that stays as it is while a collector looks at it.

Owns: numbering all rows of all segments. Does not own: what is live (collect).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offhost.repository.chunks.rows import Ids
from offhost.repository.chunks.segments import Rows, Segment


@dataclass(frozen=True, slots=True, eq=False)
class Census:
    """Every copy of every chunk in every pack that was listed and is not swept, by row number.

    A row is one copy as one segment knows it. Two segments may know the same copy: rows whose `pack_of` and `slot` are
    equal are one copy, and `rows` gives all of them. Memory is bounded by the batches asked for: rows lie in mapped
    files. Raises in every method: SegmentRotten, when a local file fails its checks: begin anew with another census.
    """

    packs: tuple[str, ...]
    """Those that exist, condemned and damaged ones among them."""
    unread: frozenset[str]
    """Those of `packs` that may hold more than is known, because their directory could not be read."""
    _segments: tuple[Segment, ...]
    _starts: Rows
    _places: tuple[NDArray[np.intp], ...]

    @classmethod
    def of(cls, segments: Sequence[Segment], packs: Sequence[str], unread: frozenset[str]) -> "Census":
        """Number the rows of these segments, in which other packs count for nothing."""
        position = {pack: at for at, pack in enumerate(packs)}
        places = tuple(np.array([position.get(pack, -1) for pack in each.packs], np.intp) for each in segments)
        starts = np.concatenate([[0], np.cumsum([len(each) for each in segments])]).astype(np.intp)
        return cls(tuple(packs), unread, tuple(segments), starts, places)

    @property
    def row_count(self) -> int:
        """All rows, those that do not count among them."""
        return int(self._starts[-1])

    def rows(self, ids: Ids) -> tuple[Rows, Rows]:
        """Every row of every id (n × 32 bytes): positions in `ids`, and the rows."""
        found = [segment.find(ids) for segment in self._segments]
        none = np.zeros(0, np.intp)
        return (
            np.concatenate([none, *(at for at, _ in found)]),
            np.concatenate([none, *(start + rows for start, (_, rows) in zip(self._starts, found, strict=False))]),
        )

    def pack_of(self, rows: Rows) -> NDArray[np.intp]:
        """Positions in `packs`; -1 for a pack that does not count."""
        return self._each(rows, lambda number, own: self._places[number][self._segments[number].column("pack", own)])

    def slot(self, rows: Rows) -> NDArray[np.intp]:
        """Slots in their packs."""
        return self._column("slot", rows)

    def plain(self, rows: Rows) -> NDArray[np.intp]:
        """Plain bytes of the chunks."""
        return self._column("plain", rows)

    def stored(self, rows: Rows) -> NDArray[np.intp]:
        """Bytes that the copies take up in their packs."""
        return self._column("stored", rows)

    def _column(self, name: str, rows: Rows) -> NDArray[np.intp]:
        return self._each(rows, lambda number, own: self._segments[number].column(name, own))

    def _each(self, rows: Rows, of_segment: Callable[[int, Rows], NDArray[np.generic]]) -> NDArray[np.intp]:
        values = np.zeros(len(rows), np.intp)
        for number in range(len(self._segments)):
            start, end = self._starts[number], self._starts[number + 1]
            own = np.flatnonzero((rows >= start) & (rows < end))
            values[own] = of_segment(number, rows[own] - start)
        return values
