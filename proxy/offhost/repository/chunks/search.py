"""The best copy of each of many chunks, over all segments.

Owns: choosing between copies. Does not own: what a copy counts for (standing), which segments there are (index).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offhost.ids import ChunkId
from offhost.repository.chunks.packs import Location
from offhost.repository.chunks.rows import as_ids
from offhost.repository.chunks.segments import Rows
from offhost.repository.chunks.standing import Judged, Rank


@dataclass(frozen=True, slots=True, eq=False)
class Search:
    """What was found: for each id the rank of its best copy, and where that is, a row of a segment or a recent one."""

    ranks: NDArray[np.uint8]
    _numbers: NDArray[np.intp]
    _rows: Rows
    _judged: Sequence[Judged]
    _recent: Mapping[int, Location]

    @classmethod
    def among(
        cls, judged: Sequence[Judged], ids: Sequence[ChunkId], recent: Mapping[int, tuple[Location, Rank]]
    ) -> "Search":
        """Look in all segments for what has no good copy among the recent ones, which are by position in `ids`.

        Raises: SegmentRotten.
        """
        ranks = np.full(len(ids), Rank.GONE, np.uint8)
        for at, (_, rank) in recent.items():
            ranks[at] = rank
        places = {at: place for at, (place, _) in recent.items()}
        found = cls(ranks, np.full(len(ids), -1, np.intp), np.zeros(len(ids), np.intp), judged, places)
        raw = as_ids(ids)
        for number in range(len(judged)):
            left = np.flatnonzero(ranks != Rank.GOOD)
            if not len(left):
                break
            positions, rows = judged[number].segment.find(raw[left])
            if len(positions):
                found._improve(left[positions], number, rows)
        return found

    def _improve(self, at: Rows, number: int, rows: Rows) -> None:
        """Take copies that are better than those known; of several the best, which is therefore written last."""
        ranks = self._judged[number].ranks(rows)
        better = np.flatnonzero(ranks < self.ranks[at])
        better = better[np.argsort(ranks[better], kind="stable")[::-1]]
        at = at[better]
        self.ranks[at], self._numbers[at], self._rows[at] = ranks[better], number, rows[better]

    def locations(self, worst: Rank) -> list[Location | None]:
        """The copies that are no worse than this. Raises: SegmentRotten."""
        usable = self.ranks <= worst
        places: list[Location | None] = [None] * len(self.ranks)
        for at, place in self._recent.items():
            if usable[at] and self._numbers[at] < 0:
                places[at] = place
        for number in np.unique(self._numbers[usable & (self._numbers >= 0)]).tolist():
            own = np.flatnonzero(usable & (self._numbers == number))
            for at, place in zip(own.tolist(), self._judged[number].segment.locations(self._rows[own]), strict=True):
                places[at] = place
        return places
