"""Which restore points are known to be damaged: by what is marked, without reading content anew.

Owns: asking that of the maps of some points. Does not own: the walk (harm), finding damage (verify), what follows from
it (expiry).
"""

import threading
from collections.abc import Sequence

from offhost.ids import ChunkId
from offhost.repository.points.manifest import Manifest
from offhost.repository.repository import Repository
from offhost.repository.verification.harm import HarmWalk


def suspects(repository: Repository, points: Sequence[Manifest]) -> frozenset[str]:
    """The points, by id, of which something has no copy that is there and not known to be damaged.

    Costs nothing while nothing is marked, else a walk over the maps. `points` come grouped by VM and in their order.
    """
    index = repository.store.index
    if not index.damaged:
        return frozenset()

    def judge(chunks: Sequence[ChunkId]) -> list[str | None]:
        return [None if readable else "no good copy" for readable in index.readable(chunks)]

    return frozenset(harm.point for harm in HarmWalk(repository, judge, threading.Event()).of(points))
