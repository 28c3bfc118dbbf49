"""How much of each pack is needed, and which packs are worth collecting. Pure.

Owns: the choice between several copies of a chunk, and the thresholds. Does not own: what is needed (liveness).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from offhost.repository.chunks.census import Census
from offhost.repository.chunks.packs import PACK_LIMIT_BYTES
from offhost.repository.objects.marks import Slots

_ROWS_AT_ONCE = 1 << 20

REWRITE_BELOW = 0.5
"""A pack of which less than this part is needed is rewritten: half of what is moved comes free at least."""

SMALL_PACK_BYTES = PACK_LIMIT_BYTES // 4
"""Packs below this are joined, once together they fill a whole one."""


@dataclass(frozen=True, slots=True)
class Usage:
    """A pack's size, and what of it is needed and lies nowhere better."""

    pack: str
    size_bytes: int
    needed_bytes: int


class Needs(Protocol):
    """What a walk over the points found."""

    @property
    def needed(self) -> NDArray[np.bool_]:
        """By row of the census."""
        ...

    @property
    def repeated(self) -> Mapping[Any, NDArray[np.intp]]:
        """The rows of needed chunks that have several."""
        ...


def usage(census: Census, found: Needs, sizes: Mapping[str, int], damaged: Mapping[str, Slots]) -> list[Usage]:
    """How much of each pack is needed. Of several copies of a chunk one counts: a sound one, in the fullest pack."""
    needed = _needed_bytes(census, found.needed)
    for rows in found.repeated.values():
        others = np.delete(rows, _best(census, rows, needed, damaged))
        np.subtract.at(needed, census.pack_of(others), census.stored(others))
    return [Usage(pack, sizes.get(pack, 0), int(needed[at])) for at, pack in enumerate(census.packs)]


def _needed_bytes(census: Census, needed: NDArray[np.bool_]) -> NDArray[np.int64]:
    total = np.zeros(len(census.packs), np.int64)
    for start in range(0, len(needed), _ROWS_AT_ONCE):
        rows = start + np.flatnonzero(needed[start : start + _ROWS_AT_ONCE])
        packs = census.pack_of(rows)
        total += np.bincount(packs, census.stored(rows), len(total)).astype(np.int64)
    return total


def _best(census: Census, rows: NDArray[np.intp], needed: NDArray[np.int64], damaged: Mapping[str, Slots]) -> int:
    """Which of a chunk's rows to keep. One copy may have several rows, of which one counts."""
    packs, slots = census.pack_of(rows).tolist(), census.slot(rows).tolist()

    def rank(at: int) -> tuple[bool, bool, int, int]:
        pack = census.packs[packs[at]]
        bad = damaged.get(pack, frozenset())
        return bad is not None and slots[at] not in bad, pack not in damaged, int(needed[packs[at]]), packs[at]

    return max(range(len(rows)), key=rank)


def dead(packs: Sequence[Usage]) -> list[Usage]:
    """The packs of which nothing is needed."""
    return [each for each in packs if not each.needed_bytes]


def worth_rewriting(packs: Sequence[Usage], damaged: Mapping[str, Slots]) -> list[Usage]:
    """Mostly dead packs, and small ones where they fill a new one together; damaged packs are kept as they are."""
    sound = [each for each in packs if each.needed_bytes and each.pack not in damaged]
    mostly_dead = [each for each in sound if each.needed_bytes < _share(each)]
    small = [each for each in sound if each.size_bytes < SMALL_PACK_BYTES and each.needed_bytes >= _share(each)]
    return mostly_dead + (small if sum(each.needed_bytes for each in small) >= PACK_LIMIT_BYTES else [])


def _share(pack: Usage) -> float:
    return REWRITE_BELOW * pack.size_bytes
