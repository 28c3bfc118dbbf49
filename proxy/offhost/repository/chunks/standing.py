"""What copies of chunks count for: whether their packs exist, are condemned, damaged or swept.

Owns: the ranking of copies. Does not own: who says so (graves, marks), where the copies are (index).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from offhost.repository.chunks.packs import Location
from offhost.repository.chunks.segments import Rows, Segment
from offhost.repository.objects.marks import Slots


class Rank(IntEnum):
    """How good a copy is; a writer relies on GOOD ones alone, a reader takes the best there is."""

    GOOD = 0
    CONDEMNED = 1
    DAMAGED = 2
    GONE = 3


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known of packs. `listed` grows by what this process stores; the rest is as it was read."""

    listed: set[str] = field(default_factory=set)
    condemned: frozenset[str] = frozenset()
    swept: frozenset[str] = frozenset()
    damaged: Mapping[str, Slots] = field(default_factory=dict)

    def exists(self, pack: str) -> bool:
        """Whether a pack is there for anybody."""
        return pack in self.listed and pack not in self.swept

    def of_pack(self, pack: str) -> Rank:
        """What a pack's copies count for at best."""
        if not self.exists(pack):
            return Rank.GONE
        if self.damaged.get(pack, frozenset()) is None:
            return Rank.DAMAGED
        return Rank.CONDEMNED if pack in self.condemned else Rank.GOOD

    def of(self, location: Location) -> Rank:
        """What one copy counts for."""
        rank = self.of_pack(location.pack)
        slots = self.damaged.get(location.pack)
        return max(rank, Rank.DAMAGED) if slots and location.slot in slots else rank


def with_copies(damaged: Mapping[str, Slots], copies: Iterable[Location]) -> Mapping[str, Slots]:
    """What is damaged, and these copies too."""
    found = dict(damaged)
    for copy in copies:
        known = found.get(copy.pack, frozenset())
        found[copy.pack] = None if known is None else known | {copy.slot}
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """A segment, and what its rows count for at present."""

    segment: Segment
    packs: NDArray[np.uint8]
    marked: NDArray[np.uint64]

    @classmethod
    def by(cls, standing: Standing, segment: Segment) -> "Judged":
        """Apply what is known."""
        ranks = np.fromiter(map(standing.of_pack, segment.packs), np.uint8, len(segment.packs))
        marked = [
            number << 32 | slot
            for number, pack in enumerate(segment.packs)
            if pack in standing.damaged
            for slot in standing.damaged[pack] or ()
        ]
        return cls(segment, ranks, np.array(marked, np.uint64))

    @property
    def mostly_gone(self) -> bool:
        """Whether more than half of its packs are gone."""
        return 2 * int((self.packs == Rank.GONE).sum()) > len(self.packs)

    def ranks(self, rows: Rows) -> NDArray[np.uint8]:
        """What some rows count for."""
        packs = self.segment.column("pack", rows)
        ranks: NDArray[np.uint8] = self.packs[packs]
        if len(self.marked):
            places = packs.astype(np.uint64) << np.uint64(32) | self.segment.column("slot", rows).astype(np.uint64)
            ranks = np.where(np.isin(places, self.marked), np.maximum(ranks, Rank.DAMAGED), ranks).astype(np.uint8)
        return ranks
