"""Damage to repositories, as disks and people do it."""

from pathlib import Path

from offhost.ids import ChunkId
from offhost.repository.chunks.packs import Kind, Location
from offhost.repository.points.manifest import Manifest
from offhost.repository.repository import Repository


def flip(path: Path, at: int) -> None:
    """Change one bit of a file."""
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def pack_path(root: Path, pack: str) -> Path:
    return root / "packs" / pack[:2] / pack


def chunks_of(repository: Repository, point: Manifest, kind: Kind) -> list[ChunkId]:
    """The chunks of the first disk of a point, of one kind, in the order of the disk."""
    map_ = repository.restore_point(point).map(point.disks[0])
    if kind is Kind.PAGE:
        return list(point.disks[0].map.pages)
    spans = [span for span in range(len(map_)) if map_.leaf(span)]
    if kind is Kind.LEAF:
        return [leaf for span in spans for leaf in map_.lineage(span)[:1]]
    return [ref.id for span in spans for ref in map_.span(span)]


def place_of(repository: Repository, chunk: ChunkId) -> Location:
    (place,) = repository.store.index.look_up([chunk])
    assert place is not None
    return place


def rot(root: Path, place: Location) -> None:
    """Change one bit of one copy of a chunk."""
    flip(pack_path(root, place.pack), place.offset + place.stored // 2)
