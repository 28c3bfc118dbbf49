"""Whom damage harms: which disks of which restore points need chunks that no pack holds a good copy of.

Owns: the walk over the points' maps, in which each leaf that points share is looked at once, and each span of a disk
only where it differs from the VM's point before. Memory: a bit for each metadata chunk, some bytes for each span of the
disks of one VM, and the harm itself. Does not own: finding damage in packs (checking), what is done about it (verify).
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from offhost.chunking.spans import SpanMap
from offhost.errors import IntegrityError, PackCorrupt, Stopped
from offhost.ids import ChunkId
from offhost.repository.chunks.packs import Kind, Location
from offhost.repository.points.diskmap import DiskMap
from offhost.repository.points.leaves import MAX_DEPTH, Patch, apply, decode
from offhost.repository.points.manifest import Manifest, PointDisk
from offhost.repository.points.readings import first_of_each
from offhost.repository.repository import Repository

_LEAVES_AT_ONCE = 256

Judge = Callable[[Sequence[ChunkId]], list[str | None]]
"""For each chunk, why no good copy of it is there; None where one is."""


@dataclass(frozen=True, slots=True)
class Harm:
    """A cause, and a disk or file of a point that cannot be read right because of it."""

    cause: str
    vm: str
    point: str
    time: str
    what: str

    def __str__(self) -> str:
        return f"{self.vm}, point {self.point[:12]} of {self.time}, {self.what}"


@dataclass(slots=True)
class _Bits:
    """A set of chunks by where they lie."""

    _packs: dict[str, bytearray] = field(default_factory=dict)

    def add(self, at: Location) -> bool:
        """Add; whether it was not in before."""
        bits = self._packs.setdefault(at.pack, bytearray())
        place, bit = at.slot >> 3, 1 << (at.slot & 7)
        if place >= len(bits):
            bits.extend(bytes(place + 1 - len(bits)))
        new = not bits[place] & bit
        bits[place] |= bit
        return new


@dataclass(slots=True)
class _Walked:
    """A disk as it was in the VM's point before: its list's slots, and for each span a position in the causes."""

    slots: NDArray[np.uint8]
    causes: NDArray[np.uint32]


class HarmWalk:
    """Walks points and names harm. For one thread.

    `found` collects metadata chunks that did not read though nobody knew of it: they are damage, too.
    """

    def __init__(self, repository: Repository, judge: Judge, stop: threading.Event) -> None:
        self._repository, self._judge, self._stop = repository, judge, stop
        self._reader = repository.reader
        self._looked_at = _Bits()
        self._harmful: dict[ChunkId, int] = {}
        self._lost: set[ChunkId] = set()
        self._causes: list[frozenset[str]] = [frozenset()]
        self._numbers: dict[frozenset[str], int] = {frozenset(): 0}
        self.found: dict[ChunkId, str] = {}

    def of(self, points: Iterable[Manifest]) -> Iterator[Harm]:
        """The harm of points, which come grouped by VM and in their order. Raises: Stopped."""
        for _, group in groupby(points, key=lambda point: point.vm_id):
            before: dict[str, _Walked] = {}
            for point in group:
                yield from self._of_point(point, before)

    def _of_point(self, point: Manifest, before: dict[str, _Walked]) -> Iterator[Harm]:
        if self._stop.is_set():
            raise Stopped("verification was stopped before its end")

        def harm(cause: str, what: str) -> Harm:
            return Harm(cause, point.vm_name, point.id, f"{point.time:%Y-%m-%d %H:%M:%S}Z", what)

        for file in point.files:
            yield from (harm(cause, f"file {file.name}") for cause in self._causes_of(file.chunks))
        for disk in point.disks:
            yield from (harm(cause, f"disk {disk.key}") for cause in self._of_disk(point, disk, before))

    def _causes_of(self, chunks: Sequence[ChunkId]) -> list[str]:
        """Why no good copy of some of these is there."""
        return list(dict.fromkeys(filter(None, self._judge(list(dict.fromkeys(chunks))))))

    def _of_disk(self, point: Manifest, disk: PointDisk, before: dict[str, _Walked]) -> list[str]:
        pages = list(dict.fromkeys(disk.map.pages))
        if causes := self._causes_of(pages):
            return causes
        try:
            map_ = self._repository.restore_point(point).map(disk)
        except IntegrityError as error:
            self.found |= dict(self._which(pages))
            return [str(error)]
        walked = self._walked(map_, before.get(disk.key))
        before[disk.key] = walked
        return sorted(frozenset().union(*(self._causes[number] for number in np.unique(walked.causes).tolist())))

    def _walked(self, map_: DiskMap, before: _Walked | None) -> _Walked:
        slots = map_.slots()
        causes = np.zeros(len(slots), np.uint32)
        fresh = np.ones(len(slots), np.bool_)
        if before is not None:
            common = min(len(slots), len(before.slots))
            fresh[:common] = (slots[:common] != before.slots[:common]).any(axis=1)
            causes[:common] = np.where(fresh[:common], 0, before.causes[:common])
        spans = np.flatnonzero(fresh & map_.held())
        first = first_of_each(slots[spans, 32:64], np.zeros(len(spans), np.uint32))
        distinct = np.flatnonzero(first == np.arange(len(spans)))  # a disk may name one leaf two million times
        for at in range(0, len(distinct), _LEAVES_AT_ONCE):
            if self._stop.is_set():
                raise Stopped("verification was stopped before its end")
            some = spans[distinct[at : at + _LEAVES_AT_ONCE]]
            leaves = [ChunkId(leaf.tobytes()) for leaf in slots[some, 32:64]]
            self._look_at(leaves, MAX_DEPTH + 1)
            causes[some] = [self._harmful.get(leaf, 0) for leaf in leaves]
        causes[spans] = causes[spans[first]]
        return _Walked(slots, causes)

    def _look_at(self, leaves: Sequence[ChunkId], deep: int) -> None:
        """See to it that `_harmful` knows of these leaves what there is to know."""
        fresh = self._not_looked_at(list(dict.fromkeys(leaves)))
        if not fresh:
            return
        if not deep:
            for leaf in fresh:
                self._lose(leaf, f"leaf {leaf.hex()[:12]}: more than {MAX_DEPTH} patches deep")
            return
        waiting = self._read(fresh)
        self._look_at([each.parent for each in waiting.values() if isinstance(each, Patch)], deep - 1)
        while waiting:  # a patch after its parent, where both came at once; ids being hashes, there is no circle
            ready = {leaf: each for leaf, each in waiting.items() if _parent(each) not in waiting}
            for leaf, causes in self._content_harm(ready).items():
                self._harm(leaf, causes)
            waiting = {leaf: each for leaf, each in waiting.items() if leaf not in ready}

    def _not_looked_at(self, leaves: Sequence[ChunkId]) -> list[ChunkId]:
        """Those that are new and have a good copy; the others' harm is known with that."""
        fresh = []
        places = self._repository.store.index.look_up(leaves)
        for leaf, place, cause in zip(leaves, places, self._judge(leaves), strict=True):
            if cause is not None:
                self._lose(leaf, cause)
            elif place and self._looked_at.add(place):
                fresh.append(leaf)
        return fresh

    def _read(self, leaves: Sequence[ChunkId]) -> dict[ChunkId, SpanMap | Patch]:
        try:
            return {leaf: decode(bytes(plain)) for leaf, plain in self._reader.read_many(leaves, Kind.LEAF)}
        except IntegrityError as error:
            if len(leaves) == 1:
                self._lose(leaves[0], str(error))
                self.found[leaves[0]] = str(error)
                return {}
        decoded: dict[ChunkId, SpanMap | Patch] = {}
        for leaf in leaves:
            decoded |= self._read([leaf])
        return decoded

    def _content_harm(self, leaves: dict[ChunkId, SpanMap | Patch]) -> dict[ChunkId, frozenset[str]]:
        """Why not all can be read that these leaves stand for.

        A patch names what it adds; the rest is its parent's, which has been looked at. Only where that is harmed are
        all entries needed, to tell whether the patch has taken the harmed ones away.
        """
        named: dict[ChunkId, SpanMap] = {}
        harm: dict[ChunkId, frozenset[str]] = {}
        for leaf, each in leaves.items():
            if not isinstance(each, Patch):
                named[leaf] = each
            elif each.parent in self._lost:
                self._lost.add(leaf)
                harm[leaf] = self._causes[self._harmful[each.parent]]
            elif each.parent not in self._harmful:
                named[leaf] = each.splices.entries
            else:
                try:
                    named[leaf] = self._resolved(each)
                except IntegrityError as error:
                    self._lose(leaf, str(error))
        ids = [ChunkId(row.tobytes()) for entries in named.values() for row in entries.ids]
        causes = iter(self._judge(ids))
        for leaf, entries in named.items():
            harm[leaf] = frozenset(cause for _ in range(len(entries)) if (cause := next(causes)) is not None)
        return harm

    def _resolved(self, patch: Patch) -> SpanMap:
        """All entries of a patched leaf. Raises: IntegrityError."""
        patches = [patch]
        while len(patches) <= MAX_DEPTH:
            parent = decode(self._reader.read_one(patches[-1].parent, Kind.LEAF))
            if not isinstance(parent, Patch):
                for each in reversed(patches):
                    parent = apply(parent, each.splices)
                return parent
            patches.append(parent)
        raise PackCorrupt(f"a leaf is more than {MAX_DEPTH} patches deep")

    def _lose(self, leaf: ChunkId, cause: str) -> None:
        """The leaf itself cannot be read, so that nothing of its span can, nor of those patched on it."""
        self._lost.add(leaf)
        self._harm(leaf, frozenset([cause]))

    def _harm(self, leaf: ChunkId, causes: frozenset[str]) -> None:
        if causes:
            number = self._numbers.setdefault(causes, len(self._causes))
            if number == len(self._causes):
                self._causes.append(causes)
            self._harmful[leaf] = number

    def _which(self, pages: Sequence[ChunkId]) -> Iterator[tuple[ChunkId, str]]:
        """Which list pages it was that did not read."""
        for page in pages:
            try:
                self._reader.read_one(page, Kind.PAGE)
            except IntegrityError as error:
                yield page, str(error)


def _parent(leaf: SpanMap | Patch) -> ChunkId | None:
    return leaf.parent if isinstance(leaf, Patch) else None
