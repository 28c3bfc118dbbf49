"""Restore points as values, and as JSON.

Owns: FORMAT.md, "Restore points". Does not own: where points lie and which of them count (points).
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from offhost.clock import moment
from offhost.errors import PackCorrupt
from offhost.ids import ChunkId, DiskKey, SessionId, VmId

FORMAT = 1
_COPIES_LIMIT = 64
DISK_LIMIT_BYTES = 64 << 40


@dataclass(frozen=True, slots=True)
class DiskMapRef:
    """What a manifest says of a disk's map."""

    size_bytes: int
    data_bytes: int
    """What the disk holds besides holes: for statistics only."""
    cutter: str
    pages: tuple[ChunkId, ...]
    root: bytes


@dataclass(frozen=True, slots=True)
class PointDisk:
    """One disk of a point. `source` is what the next incremental needs to know of where it was read from."""

    key: DiskKey
    label: str
    map: DiskMapRef
    source: dict[str, Any] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        """The disk's capacity."""
        return self.map.size_bytes


@dataclass(frozen=True, slots=True)
class PointFile:
    """A small file kept with a point: .vmx, nvram. Its content is its chunks, in order."""

    name: str
    size_bytes: int
    chunks: tuple[ChunkId, ...]


@dataclass(frozen=True, slots=True)
class Predecessor:
    """The point of the same VM before this one: its id, and the BLAKE3 of its object."""

    id: SessionId
    digest: bytes


@dataclass(frozen=True, slots=True)
class Manifest:
    """One VM at one time. Complete in itself: no chain of points is needed to read it."""

    id: SessionId
    vm_id: VmId
    vm_name: str
    sequence: int
    predecessor: Predecessor | None
    time: datetime
    kind: str
    """full, incremental, differential: how its bytes came here, not what it holds; or host, for one of an ESX host."""
    consistency: str
    disks: tuple[PointDisk, ...]
    files: tuple[PointFile, ...] = ()
    vm_config: dict[str, Any] | None = None
    origin: dict[str, Any] = field(default_factory=dict)
    totals: dict[str, int] = field(default_factory=dict)
    sound_under: str = ""
    """What tells the damage known when this point was made, empty for none: it relies on no copy named there."""

    @property
    def order(self) -> tuple[int, datetime, str]:
        """What points of one VM are ordered by: a clock may jump, a sequence does not."""
        return self.sequence, self.time, self.id

    def disk(self, key: str) -> PointDisk | None:
        """The disk of that key."""
        return next((disk for disk in self.disks if disk.key == key), None)


def first_origin(point: Manifest) -> dict[str, Any]:
    """Who made it at first, whoever copied it since."""
    origin = point.origin
    for _ in range(_COPIES_LIMIT):
        if origin.get("kind") != "copy" or not isinstance(origin.get("of"), dict):
            break
        origin = origin["of"]
    return origin


def tags_of(point: Manifest) -> list[str]:
    """The tags it was made with."""
    tags = first_origin(point).get("tags")
    return list(map(str, tags)) if isinstance(tags, list) else []


def to_json(point: Manifest) -> dict[str, Any]:
    """The payload of a point's object."""
    previous = point.predecessor
    return {
        "format": FORMAT,
        "id": point.id,
        "vm": {"id": point.vm_id, "name": point.vm_name},
        "sequence": point.sequence,
        "predecessor": {"id": previous.id, "digest": previous.digest.hex()} if previous else None,
        "time": point.time.isoformat(),
        "kind": point.kind,
        "consistency": point.consistency,
        "disks": [_disk_to_json(disk) for disk in point.disks],
        "files": [
            {"name": file.name, "size_bytes": file.size_bytes, "chunks": [chunk.hex() for chunk in file.chunks]}
            for file in point.files
        ],
        "vm_config": point.vm_config,
        "origin": point.origin,
        "totals": point.totals,
    } | ({"sound_under": point.sound_under} if point.sound_under else {})


def _disk_to_json(disk: PointDisk) -> dict[str, Any]:
    return {
        "key": disk.key,
        "label": disk.label,
        "size_bytes": disk.map.size_bytes,
        "data_bytes": disk.map.data_bytes,
        "cutter": disk.map.cutter,
        "pages": [page.hex() for page in disk.map.pages],
        "root": disk.map.root.hex(),
        "source": disk.source,
    }


def from_json(name: str, value: dict[str, Any]) -> Manifest:
    """The point of the payload of object `name`. Raises: PackCorrupt when it is not one, or says it is another."""
    try:
        if value["format"] != FORMAT:
            raise ValueError(f"format {value['format']!r}")
        if value["id"] != name.rpartition("/")[2]:
            raise ValueError(f"it says it is {value['id']!r:.80}")
        return Manifest(
            id=SessionId(_text(value["id"])),
            vm_id=VmId(_text(value["vm"]["id"])),
            vm_name=_text(value["vm"]["name"]),
            sequence=_whole(value["sequence"]),
            predecessor=_predecessor_from_json(value["predecessor"]),
            time=moment(value["time"]),
            kind=_text(value["kind"]),
            consistency=_text(value["consistency"]),
            disks=tuple(_disk_from_json(disk) for disk in value["disks"]),
            files=tuple(
                PointFile(_text(file["name"]), _whole(file["size_bytes"]), tuple(map(_chunk, file["chunks"])))
                for file in value["files"]
            ),
            vm_config=None if value["vm_config"] is None else dict(value["vm_config"]),
            origin=dict(value["origin"]),
            totals={_text(what): _whole(count) for what, count in value["totals"].items()},
            sound_under=_text(value.get("sound_under", "")),
        )
    except KeyError as error:
        raise PackCorrupt(f"{name}: not a restore point: it lacks {error}") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise PackCorrupt(f"{name}: not a restore point: {error!s:.200}") from error


def _whole(value: object) -> int:
    """A count or size, which must be one: true is no number here, and 1e999 no size."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 63:
        raise ValueError(f"{value!r:.40} is no count")
    return value


def _text(value: object) -> str:
    """A text that can be encoded: JSON may write halves of characters."""
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is no text")
    value.encode()
    return value


def _predecessor_from_json(value: dict[str, Any] | None) -> Predecessor | None:
    return Predecessor(SessionId(_text(value["id"])), bytes.fromhex(value["digest"])) if value else None


def _chunk(text: str) -> ChunkId:
    chunk = bytes.fromhex(text)
    if len(chunk) != 32:
        raise ValueError(f"a chunk id of {len(chunk)} bytes")
    return ChunkId(chunk)


def _disk_from_json(value: dict[str, Any]) -> PointDisk:
    size = _whole(value["size_bytes"])
    if size > DISK_LIMIT_BYTES:
        raise ValueError(f"a disk of {size} bytes")
    ref = DiskMapRef(
        size_bytes=size,
        data_bytes=_whole(value["data_bytes"]),
        cutter=_text(value["cutter"]),
        pages=tuple(map(_chunk, value["pages"])),
        root=bytes.fromhex(value["root"]),
    )
    return PointDisk(DiskKey(_text(value["key"])), _text(value["label"]), ref, dict(value["source"]))
