"""What a repository holds, in numbers.

Owns: what each figure means. Does not own: who needs which chunk (ownership), what a collection takes (usage).

Three sizes follow one another. *Plain*: what the restore points hold, without holes, each point counted whole.
*Unique*: the plain bytes of the different chunks among that. *Stored*: bytes of objects as they lie.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from offhost.errors import IntegrityError
from offhost.repository.chunks.census import Census
from offhost.repository.chunks.packs import DIRECTORY, HEADER_BYTES, TAG_BYTES, Kind
from offhost.repository.chunks.segments import SegmentRotten
from offhost.repository.collection.usage import dead, usage, worth_rewriting
from offhost.repository.points.manifest import Manifest
from offhost.repository.repository import Repository
from offhost.repository.statistics.ownership import Ownership

_FOLDERS = ("config", "keys", "packs", "index", "points", "sessions", "condemned", "sweeps", "marks")
_PACK_FRAME_BYTES = HEADER_BYTES + TAG_BYTES + 4
_ROWS_AT_ONCE = 1 << 20
_ATTEMPTS = 3
_POINT = re.compile(r"points/[0-9a-f]{32}/([0-9a-f]{32})")


@dataclass(frozen=True, slots=True)
class Storage:
    """All bytes of a repository's objects, by what they are for; together they are `Stats.stored_bytes`.

    Chunks count with their seals, and only where a point needs them. `unneeded_bytes` is everything else in packs:
    chunks that no point needs, further copies of those that one does, packs that a collector has left to delete.
    """

    content_bytes: int
    leaves_bytes: int
    list_pages_bytes: int
    directories_bytes: int
    """Of packs, with their headers and trailers."""
    index_runs_bytes: int
    points_bytes: int
    """Points, tombstones of sessions that made none, and points that were forgotten and lie there yet."""
    other_bytes: int
    """Configuration, keys, sessions, the collectors' lists, marks."""
    unneeded_bytes: int


@dataclass(frozen=True, slots=True)
class PointStats:
    """One restore point.

    `size_bytes` is its disks' capacity. `stored_bytes` is what its run stored, None where it did not record it.
    `frees_bytes` is what lies there for it alone: chunks, leaves and list pages that no other point needs, and its
    object. Forgetting several points frees more than the sum, for what only they share.
    """

    point: str
    vm: str
    vm_id: str
    time: datetime
    kind: str
    size_bytes: int
    plain_bytes: int
    stored_bytes: int | None
    frees_bytes: int


@dataclass(frozen=True, slots=True)
class VmStats:
    """One VM, under the name it had last. `frees_bytes` is what lies there for its points alone."""

    vm: str
    vm_id: str
    points: int
    oldest: datetime
    newest: datetime
    size_bytes: int
    """Of its newest point."""
    plain_bytes: int
    """Of all its points."""
    frees_bytes: int


@dataclass(frozen=True, slots=True)
class Collectable:
    """What a collection would free by now, at most: it spares what running backups and restores use.

    Whole packs that nobody needs are deleted; of packs that are mostly unneeded the rest is moved to new ones first.
    """

    packs: int
    bytes: int
    packs_to_rewrite: int
    bytes_by_rewriting: int


@dataclass(frozen=True, slots=True)
class Stats:
    """A repository as a whole; its parts by VM and by point, each VM's points oldest first.

    `size_bytes` is the capacity of all points' disks. `deduplication` is plain / unique, `compression` unique / what
    that is stored in (content_bytes), `saving` plain / stored; None where there is nothing to divide by.
    `metadata_bytes` is leaves, list pages, directories, index runs and points, and `metadata_share` its part of
    `stored_bytes`. `unreadable` says of which disks the maps could not be read: then what they need is not known, and
    `collectable` is None, for a collector would do nothing.
    """

    points: int
    vms: int
    chunks: int
    """Different chunks of content that points need."""
    packs: int
    size_bytes: int
    plain_bytes: int
    unique_bytes: int
    stored_bytes: int
    deduplication: float | None
    compression: float | None
    saving: float | None
    metadata_bytes: int
    metadata_share: float | None
    storage: Storage
    collectable: Collectable | None
    missing_chunks: int
    """Different chunks of content that points need and no pack has."""
    unreadable: tuple[str, ...]
    by_vm: tuple[VmStats, ...]
    by_point: tuple[PointStats, ...]


def stats(repository: Repository, progress: Callable[[int, int], None] = lambda *_: None) -> Stats:
    """Count, by a walk over all maps. `progress` is told points done and in all; what it raises ends the count.

    Points that do not open are in `unreadable`. Raises: SegmentRotten when the local copy of the index keeps failing.
    """
    points, damaged = repository.points.read()

    def figures() -> Stats:
        ownership = Ownership(repository.store.index.census(), repository.reader, points)
        ownership.walk(progress)
        return _figures(repository, ownership, damaged)

    for _ in range(_ATTEMPTS - 1):
        with suppress(SegmentRotten):  # the file has been removed; another census learns again what it held
            return figures()
    return figures()


def _figures(repository: Repository, ownership: Ownership, damaged: Sequence[IntegrityError]) -> Stats:
    points = ownership.points
    unreadable = (*map(str, damaged), *ownership.unreadable)
    sizes = {item.name: item.size_bytes for folder in _FOLDERS for item in repository.backend.list(f"{folder}/")}
    count = _Count.of(ownership)
    objects = {found[1]: size for name, size in sizes.items() if (found := _POINT.fullmatch(name))}
    by_point = tuple(
        _point(point, own + objects.get(point.id, 0)) for point, own in zip(points, count.point_bytes, strict=True)
    )
    storage = _storage(ownership.census, count, sizes)
    metadata = sum(
        (storage.leaves_bytes, storage.list_pages_bytes, storage.directories_bytes, storage.index_runs_bytes)
    )
    metadata += storage.points_bytes
    stored, plain = sum(sizes.values()), sum(each.plain_bytes for each in by_point)
    return Stats(
        points=len(points),
        vms=len({point.vm_id for point in points}),
        chunks=count.chunks,
        packs=len(ownership.census.packs),
        size_bytes=sum(each.size_bytes for each in by_point),
        plain_bytes=plain,
        unique_bytes=count.unique_bytes,
        stored_bytes=stored,
        deduplication=_ratio(plain, count.unique_bytes),
        compression=_ratio(count.unique_bytes, storage.content_bytes),
        saving=_ratio(plain, stored),
        metadata_bytes=metadata,
        metadata_share=_ratio(metadata, stored),
        storage=storage,
        collectable=None if unreadable else _collectable(repository, ownership, sizes),
        missing_chunks=len(ownership.missing),
        unreadable=unreadable,
        by_vm=_by_vm(by_point, count.vm_bytes, objects),
        by_point=by_point,
    )


def _ratio(dividend: int, divisor: int) -> float | None:
    return round(dividend / divisor, 4) if divisor else None


@dataclass(frozen=True, slots=True)
class _Count:
    """Sums over the rows that somebody needs, of one copy of each chunk."""

    chunks: int
    unique_bytes: int
    stored_bytes: Mapping[Kind, int]
    point_bytes: Sequence[int]
    vm_bytes: Sequence[int]

    @classmethod
    def of(cls, ownership: Ownership) -> "_Count":
        census, further = ownership.census, _further_copies(ownership)
        stored_by_kind: dict[Kind, int] = defaultdict(int)
        point_bytes = np.zeros(len(ownership.points), np.int64)
        vm_bytes = np.zeros(int(ownership.vms.max(initial=-1)) + 1, np.int64)
        chunks = unique = 0
        for rows in ownership.needed_rows():
            stored, kinds = census.stored(rows), ownership.kinds[rows]
            owner = ownership.owner[rows]
            point_bytes += _summed(owner, stored, len(point_bytes))
            vm_bytes += _summed(ownership.vm_of(owner), stored, len(vm_bytes))
            first = ~np.isin(rows, further)
            for kind in Kind:
                stored_by_kind[kind] += int(stored[first & (kinds == kind)].sum())
            content = rows[first & (kinds == Kind.CONTENT)]
            chunks += len(content)
            unique += int(census.plain(content).sum())
        return cls(chunks, unique, stored_by_kind, point_bytes.tolist(), vm_bytes.tolist())


def _further_copies(ownership: Ownership) -> NDArray[np.intp]:
    """All rows of copies but one of each chunk: forgetting its points frees them too, but they are not needed."""
    copies = [rows[1:] for rows in ownership.repeated.values()]
    return np.sort(np.concatenate([np.zeros(0, np.intp), *copies]))


def _summed(number: NDArray[np.int32], stored: NDArray[np.intp], count: int) -> NDArray[np.int64]:
    """Stored bytes by number, without those whose number is none."""
    single = number >= 0
    return np.bincount(number[single], stored[single], count).astype(np.int64)


def _storage(census: Census, count: _Count, sizes: Mapping[str, int]) -> Storage:
    in_folder: dict[str, int] = defaultdict(int)
    for name, size in sizes.items():
        in_folder[name.partition("/")[0]] += size
    directories = _directories_bytes(census)
    return Storage(
        content_bytes=count.stored_bytes[Kind.CONTENT],
        leaves_bytes=count.stored_bytes[Kind.LEAF],
        list_pages_bytes=count.stored_bytes[Kind.PAGE],
        directories_bytes=directories,
        index_runs_bytes=in_folder.pop("index", 0),
        points_bytes=in_folder.pop("points", 0),
        unneeded_bytes=in_folder.pop("packs", 0) - directories - sum(count.stored_bytes.values()),
        other_bytes=sum(in_folder.values()),
    )


def _directories_bytes(census: Census) -> int:
    """Headers, directories and trailers of the packs that exist: a pack has one slot more than its highest."""
    slots = np.zeros(len(census.packs), np.int64)
    for start in range(0, census.row_count, _ROWS_AT_ONCE):
        rows = np.arange(start, min(start + _ROWS_AT_ONCE, census.row_count))
        packs = census.pack_of(rows)
        np.maximum.at(slots, packs[packs >= 0], census.slot(rows[packs >= 0]) + 1)
    return int(slots.sum()) * DIRECTORY.itemsize + len(slots) * _PACK_FRAME_BYTES


def _point(point: Manifest, frees_bytes: int) -> PointStats:
    stored = point.totals.get("stored_bytes")
    return PointStats(
        point=point.id,
        vm=point.vm_name,
        vm_id=point.vm_id,
        time=point.time,
        kind=point.kind,
        size_bytes=sum(disk.size_bytes for disk in point.disks),
        plain_bytes=sum(disk.map.data_bytes for disk in point.disks) + sum(file.size_bytes for file in point.files),
        stored_bytes=stored if isinstance(stored, int) and stored >= 0 else None,
        frees_bytes=frees_bytes,
    )


def _by_vm(by_point: Sequence[PointStats], own_bytes: Sequence[int], objects: Mapping[str, int]) -> tuple[VmStats, ...]:
    """`own_bytes` are those of chunks, by the number of the VM; the points' `objects` come on top."""
    own_points: dict[str, list[PointStats]] = {}
    for point in by_point:
        own_points.setdefault(point.vm_id, []).append(point)
    return tuple(
        VmStats(
            vm=points[-1].vm,
            vm_id=vm_id,
            points=len(points),
            oldest=min(point.time for point in points),
            newest=max(point.time for point in points),
            size_bytes=points[-1].size_bytes,
            plain_bytes=sum(point.plain_bytes for point in points),
            frees_bytes=own + sum(objects.get(point.point, 0) for point in points),
        )
        for (vm_id, points), own in zip(own_points.items(), own_bytes, strict=True)
    )


def _collectable(repository: Repository, ownership: Ownership, sizes: Mapping[str, int]) -> Collectable:
    packs = {name.rpartition("/")[2]: size for name, size in sizes.items() if name.startswith("packs/")}
    damaged = repository.marks.damaged()
    found = [each for each in usage(ownership.census, ownership, packs, damaged) if each.pack in packs]
    whole, partly = dead(found), worth_rewriting(found, damaged)
    return Collectable(
        packs=len(whole),
        bytes=sum(each.size_bytes for each in whole),
        packs_to_rewrite=len(partly),
        bytes_by_rewriting=sum(each.size_bytes - each.needed_bytes for each in partly),
    )
