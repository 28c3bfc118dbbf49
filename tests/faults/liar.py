"""Objects that somebody with the key, or a bug, wrote: sealed as they should be, and saying what is not so.

Owns: sealing anything at all into a repository. Does not own: which lies (the tests). Written from FORMAT.md.
"""

import json
import secrets
import struct
from dataclasses import dataclass
from typing import Any, NamedTuple

import blake3
import zstandard
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from faults.story import World
from offhost.ids import image_id
from offhost.repository.objects.sealed import ObjectType, seal

CONTENT, LEAF, PAGE = 1, 2, 3
RAW, LZ4, ZSTD = 0, 1, 2
SPAN_BYTES = 32 << 20


class Stored(NamedTuple):
    """A chunk as a pack's directory tells of it, and the bytes it really has."""

    id: bytes
    packed: bytes
    kind: int = CONTENT
    codec: int = RAW
    plain_bytes: int = 0
    said_stored: int | None = None


@dataclass
class Liar:
    """Puts objects into a repository, behind everybody's back."""

    world: World

    def id_of(self, plain: bytes, kind: int) -> bytes:
        """The right id of a chunk."""
        keyring = self.world.keyring
        return blake3.blake3(plain, key=keyring.id_key if kind == CONTENT else keyring.metadata_id_key()).digest()

    def write(self, name: str, data: bytes) -> str:
        """An object, as it is."""
        path = self.world.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return name

    def seal(self, kind: ObjectType, name: str, payload: bytes) -> str:
        """A payload of any bytes, sealed rightly."""
        return self.write(name, seal(self.world.keyring, kind, name, payload))

    def seal_plain(self, kind: ObjectType, name: str, plain: bytes) -> str:
        """A payload of any plain bytes, compressed and sealed rightly."""
        return self.seal(kind, name, zstandard.ZstdCompressor().compress(plain))

    def seal_json(self, kind: ObjectType, name: str, value: Any) -> str:
        """A JSON value, NaN and all."""
        return self.seal_plain(kind, name, json.dumps(value).encode())

    def pack(self, chunks: list[Stored], *, directory: bytes | None = None, said_length: int | None = None) -> str:
        """A pack with these chunks; its name."""
        keyring = self.world.keyring
        salt = secrets.token_bytes(32)
        header = struct.pack("<8sBBH32s", b"OFFPACK\x01", 1, 1, keyring.epoch, salt)
        aes = AESGCM(keyring.sealing_key(keyring.epoch, 0, salt))
        body, slots = header, b""
        for slot, chunk in enumerate(chunks):
            said = struct.pack("<IBBI32s", slot, chunk.kind, chunk.codec, chunk.plain_bytes, chunk.id)
            sealed = aes.encrypt(slot.to_bytes(12, "big"), chunk.packed, header + keyring.repository_id + said)
            body += sealed
            stored = len(sealed) if chunk.said_stored is None else chunk.said_stored
            slots += struct.pack("<32sBBII", chunk.id, chunk.kind, chunk.codec, stored, chunk.plain_bytes)
        sealed = aes.encrypt(
            b"\x01" + bytes(11), slots if directory is None else directory, header + keyring.repository_id
        )
        body += sealed + struct.pack("<I", len(sealed) if said_length is None else said_length)
        name = blake3.blake3(body).hexdigest()
        self.write(f"packs/{name[:2]}/{name}", body)
        return name

    def store(self, plain: bytes, kind: int) -> bytes:
        """A true chunk; its id."""
        packed = zstandard.ZstdCompressor().compress(plain)
        chunk = self.id_of(plain, kind)
        self.pack([Stored(chunk, packed, kind, ZSTD, len(plain))])
        return chunk

    def point(self, value: dict[str, Any], *, vm: str = "liar", sid: str | None = None) -> str:
        """A point that says what `manifest` says, but for `value`."""
        sid = sid or secrets.token_hex(16)
        name = f"points/{self.world.keyring.vm_folder(image_id(vm))}/{sid}"
        return self.seal_json(ObjectType.POINT, name, manifest(sid, vm) | value)

    def point_of_disk(self, disk: dict[str, Any]) -> str:
        """A point of one disk."""
        return self.point({"disks": [{**DISK, **disk}]})

    def page(self, slots: list[bytes]) -> bytes:
        """A list page; its id."""
        return self.store(b"".join(slots), PAGE)

    def root_of(self, size_bytes: int, slots: list[bytes]) -> str:
        """The right root digest."""
        digests = b"".join(slot[:32] for slot in slots)
        said = size_bytes.to_bytes(8, "little") + b"page-1" + digests
        return blake3.blake3(said, key=self.world.keyring.metadata_id_key()).hexdigest()

    def disk_of_leaf(self, leaf: bytes, *, digest: bytes | None = None, size_bytes: int = SPAN_BYTES) -> str:
        """A point of a disk of one span whose leaf is these bytes."""
        return self.disk_of_leaf_id(self.store(leaf, LEAF), digest or self.id_of(leaf, LEAF), size_bytes)

    def disk_of_leaf_id(self, leaf: bytes, digest: bytes, size_bytes: int = SPAN_BYTES) -> str:
        """A point of a disk of one span."""
        slots = [digest + leaf + struct.pack("<I", SPAN_BYTES)]
        page = self.page(slots)
        root = self.root_of(size_bytes, slots)
        return self.point_of_disk({"size_bytes": size_bytes, "pages": [page.hex()], "root": root})


DISK: dict[str, Any] = {
    "key": "disk0",
    "label": "disk",
    "size_bytes": 0,
    "data_bytes": 0,
    "cutter": "page-1",
    "pages": [],
    "root": "00" * 32,
    "source": {},
}


def manifest(sid: str, vm: str) -> dict[str, Any]:
    """A point that nothing is wrong with."""
    return {
        "format": 1,
        "id": sid,
        "vm": {"id": image_id(vm), "name": vm},
        "sequence": 1,
        "predecessor": None,
        "time": "2026-01-02T00:00:00+00:00",
        "kind": "full",
        "consistency": "crash",
        "disks": [],
        "files": [],
        "vm_config": None,
        "origin": {},
        "totals": {},
    }


def entries(refs: list[tuple[int, int, bytes]]) -> bytes:
    """The tail of a leaf: n, starts, lengths, ids."""
    starts, lengths = ([ref[column] for ref in refs] for column in (0, 1))
    count = len(refs)
    return struct.pack(f"<I{count}I{count}I", count, *starts, *lengths) + b"".join(ref[2] for ref in refs)


def keyframe(refs: list[tuple[int, int, bytes]]) -> bytes:
    """A leaf that names all of its span's chunks."""
    return b"\x00" + entries(refs)


def patch(parent: bytes, splices: list[tuple[int, int, int]], refs: list[tuple[int, int, bytes]], depth: int) -> bytes:
    """A leaf that is told by its difference from another."""
    columns = b"".join(struct.pack(f"<{len(splices)}I", *(splice[at] for splice in splices)) for at in range(3))
    return b"\x01" + struct.pack("<B32sI", depth, parent, len(splices)) + columns + entries(refs)
