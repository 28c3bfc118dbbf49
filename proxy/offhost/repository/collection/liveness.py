"""Which chunks restore points need: one walk over their maps, each shared leaf looked at once.

Owns: the walk, and a bit for each row of the index. Does not own: what is done about chunks nobody needs (collect).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from offhost.chunking.spans import SpanMap
from offhost.errors import ChunkCorrupt, PackCorrupt
from offhost.ids import ChunkId
from offhost.repository.chunks.census import Census
from offhost.repository.chunks.packs import Kind
from offhost.repository.chunks.reading import PackReader
from offhost.repository.chunks.rows import Ids, as_ids
from offhost.repository.points.diskmap import leaves_of_page
from offhost.repository.points.leaves import MAX_DEPTH, Patch, apply, decode
from offhost.repository.points.manifest import Manifest

_LEAVES_AT_ONCE = 256
_PAGES_AT_ONCE = 64

T = TypeVar("T")


class Liveness:
    """What the points that were added need. For one thread.

    Invariants: a leaf that is needed has its parents needed, to the keyframe; all entries of a walked leaf are needed.
    `on_missing` is told of content that no pack holds; what it raises ends the walk. Missing metadata always does.
    """

    def __init__(self, census: Census, reader: PackReader, on_missing: Callable[[ChunkId], None]) -> None:
        self.census, self._reader, self._on_missing = census, reader, on_missing
        self.needed: NDArray[np.bool_] = np.zeros(census.row_count, np.bool_)
        """By row of the census; every copy of a chunk that is needed."""
        self._walked: NDArray[np.bool_] = np.zeros(census.row_count, np.bool_)
        self.repeated: dict[ChunkId, NDArray[np.intp]] = {}
        """The rows of needed chunks that have several."""
        self._missing: set[ChunkId] = set()
        """Needed content without a row, which a pack may have that could not be read when the index was made."""

    def add(self, points: Iterable[Manifest], stopping: Callable[[], None] = lambda: None) -> None:
        """Mark what these points need. The oldest first costs least: a patch is then met after its parent.

        `stopping` is called now and then; what it raises ends the walk. Raises: IntegrityError for a map that cannot
        be read or resolved.
        """
        for point in points:
            self._need_content(as_ids([chunk for file in point.files for chunk in file.chunks]))
            pages = list(dict.fromkeys(page for disk in point.disks for page in disk.map.pages))
            for some in _batches(self._unwalked(pages), _PAGES_AT_ONCE):
                stopping()
                self._need_metadata(some, walked=True)
                for _, page in self._reader.read_many(some, Kind.PAGE):
                    self._walk_leaves(leaves_of_page(bytes(page)), stopping)

    def _walk_leaves(self, leaves: Sequence[ChunkId], stopping: Callable[[], None]) -> None:
        for some in _batches(self._unwalked(leaves), _LEAVES_AT_ONCE):
            stopping()
            decoded = self._read_leaves(some)
            # the parents first: a leaf that is marked as walked promises that its parents are marked, too
            resolved = self._resolved(decoded)
            self._need_metadata(some, walked=True)
            self._need_content(np.concatenate([entries.ids for entries in resolved]))

    def _resolved(self, leaves: Mapping[ChunkId, SpanMap | Patch]) -> list[SpanMap]:
        """What walking these leaves needs that no walked leaf needs already: of a patch on a walked parent, the new."""
        patches = {leaf: each for leaf, each in leaves.items() if isinstance(each, Patch)}
        foreign = self._unwalked(list(dict.fromkeys(patch.parent for patch in patches.values())))
        known = dict(leaves) | self._lineages([parent for parent in foreign if parent not in leaves])
        unwalked = set(foreign).difference(leaves)
        found = []
        for each in leaves.values():
            if not isinstance(each, Patch):
                found.append(each)
            elif each.parent in unwalked:
                found.append(_applied(each, known))
            else:
                found.append(each.splices.entries)
        return found

    def _lineages(self, parents: Sequence[ChunkId]) -> dict[ChunkId, SpanMap | Patch]:
        """Leaves and what they are patches of, down to the keyframes, which makes all of them needed."""
        known: dict[ChunkId, SpanMap | Patch] = {}
        for _ in range(MAX_DEPTH):
            fresh = self._read_leaves([parent for parent in parents if parent not in known])
            known |= fresh
            self._need_metadata(list(fresh))
            parents = list(dict.fromkeys(each.parent for each in fresh.values() if isinstance(each, Patch)))
            if not parents:
                return known
        raise PackCorrupt(f"a leaf is more than {MAX_DEPTH} patches deep")

    def _read_leaves(self, leaves: Sequence[ChunkId]) -> dict[ChunkId, SpanMap | Patch]:
        return {leaf: decode(bytes(plain)) for leaf, plain in self._reader.read_many(leaves, Kind.LEAF)}

    def _unwalked(self, chunks: Sequence[ChunkId]) -> list[ChunkId]:
        where, rows = self.census.rows(as_ids(chunks))
        walked = np.zeros(len(chunks), np.bool_)
        walked[where[self._walked[rows]]] = True
        return [chunk for chunk, done in zip(chunks, walked.tolist(), strict=True) if not done]

    def _need_content(self, ids: Ids) -> None:
        for at in self._need(ids):
            self._missing.add(ChunkId(ids[at].tobytes()))
            self._on_missing(ChunkId(ids[at].tobytes()))

    def _need_metadata(self, chunks: Sequence[ChunkId], *, walked: bool = False) -> None:
        """Also what the reader has found since the census was made is missing: it could not be marked."""
        for at in self._need(as_ids(chunks), walked=walked):
            refuse_missing(chunks[at])

    def _need(self, ids: Ids, *, walked: bool = False) -> list[int]:
        """Mark every copy; positions of ids that have none in a pack that counts."""
        where, rows = self.census.rows(ids)
        counts = self.census.pack_of(rows) >= 0
        where, rows = where[counts], rows[counts]
        self.needed[rows] = True
        if walked:
            self._walked[rows] = True
        copies = np.bincount(where, minlength=len(ids))
        for at in np.flatnonzero(copies > 1).tolist():
            self.repeated[ChunkId(ids[at].tobytes())] = rows[where == at]
        missing: list[int] = np.flatnonzero(copies == 0).tolist()
        return missing

    def needs(self, ids: Ids) -> NDArray[np.bool_]:
        """Which of these chunks are needed, each by its id, whatever copies of it the census knows."""
        where, rows = self.census.rows(ids)
        found = np.zeros(len(ids), np.bool_)
        found[where[self.needed[rows]]] = True
        if self._missing:
            found |= np.array([ChunkId(each.tobytes()) in self._missing for each in ids], np.bool_)
        return found


def refuse_missing(chunk: ChunkId) -> None:
    """For a walk that must find everything. Raises: ChunkCorrupt."""
    raise ChunkCorrupt(f"chunk {chunk.hex()[:12]} is in no pack")


def _applied(patch: Patch, known: Mapping[ChunkId, SpanMap | Patch]) -> SpanMap:
    patches = [patch]
    parent = known[patch.parent]
    while isinstance(parent, Patch):
        patches.append(parent)
        if len(patches) > MAX_DEPTH:
            raise PackCorrupt(f"a leaf is more than {MAX_DEPTH} patches deep")
        parent = known[parent.parent]
    for each in reversed(patches):
        parent = apply(parent, each.splices)
    return parent


def _batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for at in range(0, len(items), size):
        yield items[at : at + size]
