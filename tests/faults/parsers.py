"""What reads bytes of a repository, each as one function of bytes: for tests that feed them with anything.

Owns: how a parser is reached with bytes, and bytes that each takes. Does not own: the bytes that are tried
(test_parsers, the corpus).
"""

import json
import struct
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import lz4.block
import zstandard

from faults.liar import keyframe, manifest, patch
from offhost.backend.contract import ObjectInfo
from offhost.chunking.compress import Codec, decompress
from offhost.chunking.spans import ChunkRef, SpanMap
from offhost.clock import SystemClock
from offhost.errors import ObjectNotFound
from offhost.ids import ChunkId, VmId, image_id
from offhost.repository.chunks.packs import HEADER_BYTES, PackCipher
from offhost.repository.chunks.runs import get_head, get_run
from offhost.repository.chunks.segments import load
from offhost.repository.keys.credentials import Passphrase
from offhost.repository.keys.keyring import Keyring
from offhost.repository.keys.wrappers import Argon2Cost, parsed, wrap
from offhost.repository.objects.attendance import attendance
from offhost.repository.objects.configuration import SealedConfig
from offhost.repository.objects.graves import Verdict
from offhost.repository.objects.marks import Marks
from offhost.repository.objects.sealed import ObjectType, expand, json_object, seal, unseal
from offhost.repository.points.diskmap import leaves_of_page
from offhost.repository.points.leaves import Patch, apply, decode
from offhost.repository.points.manifest import from_json

KEYRING = Keyring(bytes(16), bytes(32), {1: bytes(32)})
SID = "a" * 32
LIMIT_BYTES = 1 << 20

_NAME = "config/00000001"
_ID = b"\x07" * 32
_PARENT = SpanMap.of([ChunkRef(at * 4096, 4096, ChunkId(_ID)) for at in range(5)])


@dataclass(frozen=True, slots=True)
class Held:
    """Objects in memory, as far as parsers ask for them."""

    objects: dict[str, bytes]
    location: str = "memory"

    def get(self, name: str, limit_bytes: int) -> bytes:
        if name not in self.objects:
            raise ObjectNotFound(name)
        return self.objects[name]

    def size(self, name: str) -> int:
        return len(self.get(name, 0))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return (ObjectInfo(name, len(data)) for name, data in self.objects.items() if name.startswith(prefix))

    def check_writable(self) -> None: ...

    def put(self, name: str, data: bytes | bytearray | memoryview) -> None: ...

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        return self.get(name, 0)[offset : offset + length]

    def make_durable(self, names: Iterable[str]) -> None: ...

    def delete(self, name: str) -> None: ...


def _sealed(kind: ObjectType, name: str, plain: bytes) -> Held:
    return Held({name: seal(KEYRING, kind, name, zstandard.ZstdCompressor().compress(plain))})


def _leaf(data: bytes) -> None:
    decoded = decode(data)
    if isinstance(decoded, Patch):
        apply(_PARENT, decoded.splices)


def _directory(data: bytes) -> None:
    cipher = PackCipher.of(KEYRING, _PACK_HEADER, "packs/x")
    sealed = cipher.aes.encrypt(b"\x01" + bytes(11), data, _PACK_HEADER + KEYRING.repository_id)
    cipher.open_directory("packs/x", sealed)


_PACK_HEADER = struct.pack("<8sBBH32s", b"OFFPACK\x01", 1, 1, 1, bytes(32))
assert len(_PACK_HEADER) == HEADER_BYTES


def _run(data: bytes) -> None:
    get_run(_sealed(ObjectType.INDEX, "index/x", data), KEYRING, "index/x")


def _run_head(data: bytes) -> None:
    get_head(_sealed(ObjectType.INDEX, "index/x", data), KEYRING, "index/x")


def _config(data: bytes) -> None:
    sealed = _sealed(ObjectType.CONFIG, _NAME, data).objects[_NAME]
    SealedConfig("memory", _NAME, sealed).open(KEYRING)


def _mark(kind: str) -> Callable[[bytes], None]:
    name = f"marks/{kind}-" + ("0" * 64 + "-" + "0" * 16 if kind == "damage" else SID)

    def parse(data: bytes) -> None:
        marks = Marks(_sealed(ObjectType.MARK, name, data), KEYRING, SystemClock())
        marks.forgotten(strict=True)
        marks.pins(strict=True)
        marks.damaged(strict=True)

    return parse


def _session(data: bytes) -> None:
    attendance(_sealed(ObjectType.SESSION, f"sessions/{SID}", data), KEYRING, ())


def _keyring(data: bytes) -> None:
    try:
        Keyring.from_json(json_object("keyring", data))
    except ValueError:
        return  # what it declares


def _segment(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "x.seg").write_bytes(data)
        load(Path(folder), bytes(32))


def _chunk(codec: Codec) -> Callable[[bytes], object]:
    return lambda data: decompress(codec, data, 4096)


PARSERS: dict[str, Callable[[bytes], object]] = {
    "leaf": _leaf,
    "page": leaves_of_page,
    "directory": _directory,
    "run": _run,
    "run-head": _run_head,
    "json": lambda data: json_object("x", data),
    "manifest": lambda data: from_json(f"points/x/{SID}", json_object("x", data)),
    "verdict": lambda data: Verdict.from_json("x", json_object("x", data)),
    "config": _config,
    "forgotten": _mark("forgotten"),
    "pin": _mark("pin"),
    "damage": _mark("damage"),
    "session": _session,
    "keyring": _keyring,
    "wrapper": lambda data: parsed(SID, data),
    "envelope": lambda data: unseal(KEYRING, ObjectType.CONFIG, _NAME, data),
    "payload": lambda data: expand("x", data, LIMIT_BYTES),
    "lz4": _chunk(Codec.LZ4),
    "zstd": _chunk(Codec.ZSTD),
    "segment": _segment,
}


def _run_bytes() -> bytes:
    head = json.dumps({"packs": ["aa" * 32], "supersedes": [], "shard": [0, 0]}).encode()
    return struct.pack("<I", len(head)) + head + struct.pack("<32sIIIIIBB", _ID, 0, 0, 44, 100, 4096, 1, 0)


def _wrapper_bytes() -> bytes:
    cost = Argon2Cost(1, 8 << 10, 1)
    return wrap(KEYRING, Passphrase("x"), label="", created="2026-01-01T00:00:00Z", salt=bytes(16), cost=cost)[1]


_POINT = f"points/{KEYRING.vm_folder(VmId(image_id('x')))}/{SID}"

TAKEN: dict[str, list[bytes]] = {
    "leaf": [keyframe([(0, 4096, _ID), (8192, 100, _ID)]), patch(_ID, [(1, 2, 1)], [(4096, 8192, _ID)], 1)],
    "page": [bytes(68), _ID + _ID + bytes(4)],
    "directory": [struct.pack("<32sBBII", _ID, 1, 0, 100, 84)],
    "run": [_run_bytes()],
    "run-head": [_run_bytes()],
    "json": [b'{"a":[1,2,{"b":null}]}'],
    "manifest": [json.dumps(manifest(SID, "x")).encode()],
    "verdict": [json.dumps({"packs": ["aa" * 32], "points": [SID]}).encode()],
    "config": [
        json.dumps(
            {
                "format": 1,
                "repository": "00" * 16,
                "read": [],
                "write": [],
                "collect": [],
                "suite": 1,
                "cutter": "page-1",
                "cut_secret": "00" * 32,
                "encrypted": True,
                "epoch": 1,
                "created": "2026-01-01T00:00:00Z",
            }
        ).encode()
    ],
    "forgotten": [json.dumps({"point": SID, "reason": "x", "time": "2026-01-01T00:00:00+00:00"}).encode()],
    "pin": [json.dumps({"point": SID, "note": "x", "time": "2026-01-01T00:00:00+00:00"}).encode()],
    "damage": [json.dumps({"pack": "0" * 64, "slots": [1, 2], "what": "x"}).encode()],
    "session": [
        json.dumps({"kind": "read", "point": _POINT, "host": "h", "started": "2026-01-01T00:00:00+00:00"}).encode()
    ],
    "keyring": [json.dumps(KEYRING.to_json()).encode()],
    "wrapper": [_wrapper_bytes()],
    "envelope": [seal(KEYRING, ObjectType.CONFIG, _NAME, b"payload")],
    "payload": [zstandard.ZstdCompressor().compress(b"x" * 100)],
    "lz4": [lz4.block.compress(b"x" * 4096, store_size=False)],
    "zstd": [zstandard.ZstdCompressor().compress(b"x" * 4096)],
    "segment": [],
}
"""Bytes that each parser takes: what is tried grows out of them too."""
