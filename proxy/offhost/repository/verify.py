"""Verification: whether everything that restore points refer to is there, and is what was written.

Owns: the walk, and naming what each piece of damage harms. Does not own: the checks of a byte (packs, diskmap).
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import blake3

from offhost.errors import BackendError, IntegrityError, Stopped
from offhost.ids import ChunkId
from offhost.repository.diskmap import DiskMap
from offhost.repository.manifest import Manifest
from offhost.repository.packs import (
    HEADER_BYTES,
    PACK_LIMIT_BYTES,
    Entries,
    Kind,
    Location,
    PackCipher,
    pack_object,
    read_directory,
)
from offhost.repository.repository import Repository

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Damage:
    """Something wrong, and what cannot be restored because of it: `VM, point, disk` lines."""

    what: str
    harms: tuple[str, ...] = ()


@dataclass(slots=True)
class VerifyReport:
    """What was looked at and found wrong."""

    points: int = 0
    packs: int = 0
    chunks: int = 0
    read_bytes: int = 0
    damage: list[Damage] = field(default_factory=list)


def verify(repository: Repository, *, data: bool, progress: Progress, stop: threading.Event) -> VerifyReport:
    """Check every pack's directory, every map and that all their chunks exist; with `data`, every byte of every pack.

    `progress` is told bytes of packs done and in all. Damage is in the report, not an error. Raises: Stopped.
    """
    report = VerifyReport()
    bad: set[ChunkId] = set()
    exist = repository.store.index.packs
    sizes = {item.name.rpartition("/")[2]: item.size_bytes for item in repository.backend.list("packs/")}
    done, total = 0, sum(size for pack, size in sizes.items() if pack in exist)
    for pack in sorted(exist):
        if stop.is_set():
            raise Stopped("verification was stopped before its end: nothing is said of the rest")
        bad |= _check_pack(repository, pack, data, report)
        done += sizes.get(pack, 0)
        progress(done, total)
    _check_points(repository, bad, report)
    return report


def _check_pack(repository: Repository, pack: str, data: bool, report: VerifyReport) -> set[ChunkId]:
    """The chunks of a pack that cannot be read from it."""
    report.packs += 1
    try:
        entries = read_directory(repository.backend, repository.keyring, pack)
        report.chunks += len(entries)
        return _check_bytes(repository, pack, entries, report) if data else set()
    except (IntegrityError, BackendError) as error:
        report.damage.append(Damage(str(error)))
        return repository.store.index.chunks_of(pack)  # the pack itself cannot be asked


def _check_bytes(repository: Repository, pack: str, entries: Entries, report: VerifyReport) -> set[ChunkId]:
    content = memoryview(repository.backend.get(pack_object(pack), PACK_LIMIT_BYTES))
    report.read_bytes += len(content)
    bad: set[ChunkId] = set()
    cipher = PackCipher.of(repository.keyring, bytes(content[:HEADER_BYTES]), pack_object(pack))
    for identity, _, *place in entries.tolist():
        chunk, at = ChunkId(identity), Location(pack, *place)
        sealed = content[at.offset : at.offset + at.stored]
        try:
            cipher.open_chunk(chunk, at, sealed, repository.reader.id_key(Kind(at.kind)))
        except (IntegrityError, ValueError) as error:
            bad.add(chunk)
            report.damage.append(Damage(str(error)))
    if not bad and blake3.blake3(content).hexdigest() != pack:
        report.damage.append(
            Damage(f"{pack_object(pack)}: its bytes are not those its name says, though all chunks open")
        )
    return bad


def _check_points(repository: Repository, bad: set[ChunkId], report: VerifyReport) -> None:
    points, damaged = repository.points.read()
    report.damage.extend(Damage(str(error)) for error in damaged)
    seen: dict[bytes, set[ChunkId]] = {}
    harmed: dict[str, list[str]] = {}
    for point in points:
        report.points += 1
        for what, where in _check_point(repository, point, bad, seen):
            harmed.setdefault(what, []).append(where)
    if not damaged:  # a predecessor that does not open has been named already
        _check_order(points, repository, report)
    report.damage.extend(Damage(what, tuple(dict.fromkeys(where))) for what, where in harmed.items())


def _check_point(
    repository: Repository, point: Manifest, bad: set[ChunkId], seen: dict[bytes, set[ChunkId]]
) -> Iterator[tuple[str, str]]:
    """What is wrong with a point, and where. `seen` holds the harm of each leaf that was looked at already."""
    where = f"{point.vm_name}, point {point.id[:12]} of {point.time:%Y-%m-%d %H:%M:%S}Z"
    restore = repository.restore_point(point)
    for file in point.files:
        for chunk in _unreadable(repository, file.chunks, bad):
            yield f"chunk {chunk.hex()[:12]} cannot be read", f"{where}, file {file.name}"
    for disk in point.disks:
        try:
            for what in _check_disk(repository, restore.map(disk), bad, seen):
                yield what, f"{where}, disk {disk.key}"
        except IntegrityError as error:
            yield str(error), f"{where}, disk {disk.key}"


def _check_disk(
    repository: Repository, disk: DiskMap, bad: set[ChunkId], seen: dict[bytes, set[ChunkId]]
) -> Iterator[str]:
    for span in range(len(disk)):
        slot = disk.slot(span)
        if slot not in seen:
            try:
                seen[slot] = _unreadable(repository, [ref.id for ref in disk.span(span)], bad)
            except IntegrityError as error:
                yield str(error)
                continue
        for chunk in seen[slot]:
            yield f"chunk {chunk.hex()[:12]} cannot be read"


def _unreadable(repository: Repository, chunks: Sequence[ChunkId], bad: set[ChunkId]) -> set[ChunkId]:
    places = repository.store.index.look_up(chunks)
    return {chunk for chunk, place in zip(chunks, places, strict=True) if place is None or chunk in bad}


def _check_order(points: list[Manifest], repository: Repository, report: VerifyReport) -> None:
    """A point whose predecessor is neither there nor known to be gone was robbed of it."""
    present = {point.id: point for point in points}
    known = repository.points.gone()
    for point in points:
        before = point.predecessor
        if before is None or before.id in known:
            continue
        if before.id not in present:
            report.damage.append(Damage(f"point {before.id[:12]} of {point.vm_name} has vanished"))
        elif repository.points.predecessor(present[before.id]) != before:
            report.damage.append(Damage(f"point {before.id[:12]} of {point.vm_name} was exchanged for another"))
