"""Which points and VMs each stored chunk is needed by: nobody, one point, several points of one VM, several VMs.

Owns: the walk that tells, over all maps, each shared page and leaf looked at once or, when a second point or a second
VM turns out to share it, once more. Does not own: what is live for a collector (liveness), the figures (stats).

One number for each row of the census is all that is kept, so a repository of 16 million chunks takes 64 MiB.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from offhost.chunking.spans import SpanMap
from offhost.errors import IntegrityError, PackCorrupt
from offhost.ids import ChunkId
from offhost.repository.chunks.census import Census
from offhost.repository.chunks.packs import Kind
from offhost.repository.chunks.reading import PackReader
from offhost.repository.chunks.rows import as_ids
from offhost.repository.chunks.segments import SegmentRotten
from offhost.repository.points.diskmap import leaves_of_page
from offhost.repository.points.leaves import MAX_DEPTH, Patch, decode, splice_order
from offhost.repository.points.manifest import Manifest

Owner = NDArray[np.int32]
"""NOBODY; a point's number; SEVERAL_VMS; or, below that, several points of one VM: -3 less the VM's number."""

Rows = NDArray[np.int32]
"""Rows of the census; a chunk that is in no pack has a number below zero."""

NOBODY, SEVERAL_VMS = -1, -2
_OF_ONE_VM = -3
_LEAVES_AT_ONCE = 256
_ROWS_AT_ONCE = 1 << 20


@dataclass(slots=True)
class Ownership:
    """The points that count, numbered in the order given, and who needs what. For one thread.

    `points` must come VM by VM, a VM's in their order: a leaf is then met right after the one that it is a patch of.
    """

    census: Census
    reader: PackReader
    points: Sequence[Manifest]
    owner: Owner = field(init=False)
    """By row of the census. Of several rows of one copy one is told of, the others stay with NOBODY."""
    kinds: NDArray[np.uint8] = field(init=False)
    """By row that somebody needs, the `Kind` of what is there."""
    repeated: dict[int, NDArray[np.intp]] = field(default_factory=dict)
    """Needed chunks of which several copies exist: the row told of while walking, and one row of each copy."""
    missing: set[int] = field(default_factory=set)
    """Content that is needed and in no pack, by its number."""
    unreadable: list[str] = field(default_factory=list)
    """Disks whose maps could not be read to the end, and why: what only they need counts as needed by nobody."""
    _vms: Owner = field(init=False)
    _absent: dict[bytes, int] = field(default_factory=dict)
    _parents: list[tuple[Rows, Rows]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.owner = np.full(self.census.row_count, NOBODY, np.int32)
        self.kinds = np.zeros(self.census.row_count, np.uint8)
        numbers: dict[str, int] = {}
        self._vms = np.array([numbers.setdefault(point.vm_id, len(numbers)) for point in self.points], np.int32)

    @property
    def vms(self) -> Owner:
        """By point, the number of its VM: VMs are numbered as they come."""
        return self._vms

    def walk(self, progress: Callable[[int, int], None] = lambda *_: None) -> None:
        """Find out, once. `progress` is told points done and in all; what it raises ends the walk.

        Raises: SegmentRotten: begin anew with another census.
        """
        done = 0
        for _, group in groupby(enumerate(self.points), key=lambda numbered: numbered[1].vm_id):
            own = list(group)
            for number, point in own:
                files = [chunk for file in point.files for chunk in file.chunks]
                self._need(self._rows(files, Kind.CONTENT), number)
            for key in dict.fromkeys(disk.key for _, point in own for disk in point.disks):
                self._walk_disk(key, own)
            done += len(own)
            progress(done, len(self.points))
        self._spread_to_parents()
        self._spread_to_copies()

    def _walk_disk(self, key: str, points: Sequence[tuple[int, Manifest]]) -> None:
        """All points' maps of a disk, one place in the page list after the other."""
        disks = [(number, disk) for number, point in points if (disk := point.disk(key))]
        try:
            for place in range(max(len(disk.map.pages) for _, disk in disks)):
                column = ((number, disk.map.pages[place]) for number, disk in disks if place < len(disk.map.pages))
                self._walk_column(column)
        except SegmentRotten:
            raise  # says nothing of the repository
        except IntegrityError as error:
            self.unreadable.append(f"{points[0][1].vm_name}, disk {key}: {error}")

    def _walk_column(self, column: Iterable[tuple[int, ChunkId]]) -> None:
        before: ChunkId | None = None
        known: dict[ChunkId, Rows] = {}
        leaves: list[ChunkId] = []
        for number, page in column:
            rows = self._rows([page], Kind.PAGE)
            if not self._would_change(rows, number).any():
                continue
            if page != before:
                leaves, before = leaves_of_page(self.reader.read_one(page, Kind.PAGE)), page
            known = self._walk_leaves(leaves, known, number)
            self._need(rows, number)

    def _walk_leaves(
        self, leaves: Sequence[ChunkId], known: Mapping[ChunkId, Rows], number: int
    ) -> dict[ChunkId, Rows]:
        """Walk a page's leaves; what each of them holds, as far as it had to be looked at or was `known`."""
        rows = self._rows(leaves, Kind.LEAF)
        changing = [leaves[at] for at in np.flatnonzero(self._would_change(rows, number)).tolist()]
        found = {leaf: known[leaf] for leaf in leaves if leaf in known}
        for some in _batches([leaf for leaf in changing if leaf not in found], _LEAVES_AT_ONCE):
            found |= self._read_leaves(some, known)
        if changing:
            self._need(np.concatenate([found[leaf] for leaf in changing]), number)
        self._need(rows, number)
        return found

    def _read_leaves(self, wanted: Sequence[ChunkId], known: Mapping[ChunkId, Rows]) -> dict[ChunkId, Rows]:
        """The rows of these leaves' entries."""
        decoded = self._with_lineages(wanted, known)
        fresh = {leaf: each.splices.entries if isinstance(each, Patch) else each for leaf, each in decoded.items()}
        rows = self._rows_of_ids(np.concatenate([entries.ids for entries in fresh.values()]), Kind.CONTENT)
        ends = np.cumsum([len(entries) for entries in fresh.values()])
        inserted = dict(zip(fresh, np.split(rows, ends[:-1]), strict=True))
        resolved = dict(known)
        for leaf in sorted(decoded, key=lambda leaf: _depth(decoded[leaf])):  # parents before their patches
            each = decoded[leaf]
            if isinstance(each, Patch):
                if each.parent not in resolved:
                    raise PackCorrupt(f"leaf {leaf.hex()[:12]} is no deeper than what it is a patch of")
                parent = resolved[each.parent]
                resolved[leaf] = np.concatenate([parent, inserted[leaf]])[splice_order(len(parent), each.splices)]
            else:
                resolved[leaf] = inserted[leaf]
        return {leaf: resolved[leaf] for leaf in wanted}

    def _with_lineages(
        self, wanted: Sequence[ChunkId], known: Mapping[ChunkId, Rows]
    ) -> dict[ChunkId, SpanMap | Patch]:
        """These leaves and what they are patches of, as far as it is not known."""
        decoded: dict[ChunkId, SpanMap | Patch] = {}
        for _ in range(MAX_DEPTH + 1):
            read = {leaf: decode(bytes(plain)) for leaf, plain in self.reader.read_many(wanted, Kind.LEAF)}
            decoded |= read
            patches = {leaf: each.parent for leaf, each in read.items() if isinstance(each, Patch)}
            if patches:
                pair = self._rows(list(patches), Kind.LEAF), self._rows(list(patches.values()), Kind.LEAF)
                self._parents.append(pair)
            wanted = [
                parent for parent in dict.fromkeys(patches.values()) if parent not in known and parent not in decoded
            ]
            if not wanted:
                return decoded
        raise PackCorrupt(f"a leaf is more than {MAX_DEPTH} patches deep")

    def _rows(self, chunks: Sequence[ChunkId], kind: Kind) -> Rows:
        return self._rows_of_ids(as_ids(chunks), kind)

    def _rows_of_ids(self, ids: NDArray[np.uint8], kind: Kind) -> Rows:
        """For each id the lowest of its rows that count; below zero where there is none."""
        at, rows = self.census.rows(ids)
        counts = self.census.pack_of(rows) >= 0
        at, rows = at[counts], rows[counts]
        first = np.full(len(ids), self.census.row_count, np.int64)
        np.minimum.at(first, at, rows)
        found = first.astype(np.int32)
        for several in np.flatnonzero(np.bincount(at, minlength=len(ids)) > 1).tolist():
            self._note_copies(int(found[several]), rows[at == several])
        for lost in np.flatnonzero(first == self.census.row_count).tolist():
            found[lost] = self._absent.setdefault(ids[lost].tobytes(), -1 - len(self._absent))
        self.kinds[found[found >= 0]] = kind
        return found

    def _note_copies(self, row: int, rows: NDArray[np.intp]) -> None:
        if row not in self.repeated:
            rows = np.sort(rows)  # so that the lowest stands for its copy
            places = np.stack([self.census.pack_of(rows), self.census.slot(rows)])
            _, one_of_each = np.unique(places, axis=1, return_index=True)
            self.repeated[row] = rows[np.sort(one_of_each)]

    def _would_change(self, rows: Rows, number: int) -> NDArray[np.bool_]:
        """Which rows this point is not known to need. A row that is absent would always change."""
        changes = np.ones(len(rows), np.bool_)
        there = rows >= 0
        before = self.owner[rows[there]]
        changes[there] = self._joined(before, np.int32(number)) != before
        return changes

    def _need(self, rows: Rows, number: int) -> None:
        self.missing.update(rows[rows < 0].tolist())
        rows = rows[rows >= 0]
        self.owner[rows] = self._joined(self.owner[rows], np.int32(number))

    def _joined(self, one: Owner, other: Owner | np.int32) -> Owner:
        """Whose is what both need."""
        vm, other_vm = self.vm_of(one), self.vm_of(np.asarray(other))
        together = np.where((vm == other_vm) & (vm != SEVERAL_VMS), _OF_ONE_VM - vm, SEVERAL_VMS)
        together = np.where((one == other) | (np.asarray(other) == NOBODY), one, together)
        return np.where(one == NOBODY, other, together).astype(np.int32)

    def vm_of(self, owner: Owner) -> Owner:
        """The number of the one VM that needs it, else NOBODY or SEVERAL_VMS."""
        vm = np.where(owner <= _OF_ONE_VM, _OF_ONE_VM - owner, owner)
        single = owner >= 0
        return np.where(single, self._vms[np.where(single, owner, 0)], vm).astype(np.int32) if len(self._vms) else vm

    def _spread_to_parents(self) -> None:
        """What a leaf is a patch of is needed by whoever needs the leaf."""
        if not self._parents:
            return
        children, parents = (np.concatenate([pair[side] for pair in self._parents]) for side in (0, 1))
        there = (children >= 0) & (parents >= 0)
        children, parents = children[there], parents[there]
        while True:  # a parent of several patches takes one of them in a round, so it ends
            before = self.owner[parents]
            joined = self._joined(before, self.owner[children])
            growing = joined != before
            if not growing.any():
                return
            self.owner[parents[growing]] = joined[growing]

    def _spread_to_copies(self) -> None:
        # also what is needed no more was met, in leaves that others are patches of
        self.repeated = {row: copies for row, copies in self.repeated.items() if self.owner[row] != NOBODY}
        for row, copies in self.repeated.items():
            self.owner[copies], self.kinds[copies] = self.owner[row], self.kinds[row]

    @property
    def needed(self) -> NDArray[np.bool_]:
        """By row, whether anybody needs it."""
        needed: NDArray[np.bool_] = self.owner != NOBODY
        return needed

    def needed_rows(self) -> Iterator[NDArray[np.intp]]:
        """The rows that somebody needs, each copy once, in batches."""
        for start in range(0, len(self.owner), _ROWS_AT_ONCE):
            yield start + np.flatnonzero(self.owner[start : start + _ROWS_AT_ONCE] != NOBODY)


def _depth(leaf: SpanMap | Patch) -> int:
    return leaf.depth if isinstance(leaf, Patch) else 0


def _batches(items: Sequence[ChunkId], size: int) -> Iterator[Sequence[ChunkId]]:
    for at in range(0, len(items), size):
        yield items[at : at + size]
