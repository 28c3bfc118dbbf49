"""Reads an offhost repository by what FORMAT.md says of it, and by nothing else: no line of offhost is used here.

    python independent_reader.py REPOSITORY [POINT DISK-OR-FILE TARGET]

lists the points, or restores. The secret is OFFHOST_PASSPHRASE, OFFHOST_RECOVERY_KEY, or the line of a key file in
OFFHOST_KEY; without any only an unencrypted repository opens. The first check that fails ends it.
"""

import json
import os
import struct
import sys
import unicodedata
from collections import namedtuple
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import argon2.low_level
import lz4.block
import zstandard
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

SPAN, PAGE_SPANS, SLOT, CONTENT, LEAF, PAGE, LZ4, ZSTD = 32 << 20, 1024, 68, 1, 2, 3, 1, 2
TYPES = {"config": 1, "index": 2, "points": 3, "sessions": 4, "condemned": 6, "sweeps": 7, "marks": 8}
BASE32 = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
Place = namedtuple("Place", "pack slot offset stored plain kind codec")


def need(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(what)


def b3(key: bytes, message: bytes) -> bytes:
    return blake3(message, key=key).digest()


def kdf(context: str, message: bytes) -> bytes:
    return blake3(message, derive_key_context=context).digest()


def wrapping_key(wrapper: dict[str, Any], kind: str, secret: str) -> bytes:
    salt = bytes.fromhex(wrapper["kdf"]["salt"])
    if kind == "passphrase":
        time, memory, lanes = (wrapper["kdf"][name] for name in ("time", "memory_kib", "lanes"))
        need(time <= 16 and memory <= 1 << 20 and lanes <= 16, "Argon2 out of bounds")
        text = unicodedata.normalize("NFC", secret).encode()
        return argon2.low_level.hash_secret_raw(text, salt, time, memory, lanes, 32, argon2.low_level.Type.ID)
    if kind == "keyfile":
        magic, digits, check = secret.split()
        key = bytes.fromhex(digits)
        need((magic, check) == ("offhost-key-file-1", kdf("offhost 1 key file check", key)[:4].hex()), "no key file")
    else:
        digits = "".join(group[:4] for group in secret.split("-"))
        key = sum(BASE32.index(digit) << 5 * at for at, digit in enumerate(reversed(digits))).to_bytes(20, "big")
    return kdf(f"offhost 1 {kind} wrapping key", key + salt)


def keyring_of(root: Path, epoch: int, kind: str, secret: str) -> dict[str, Any]:
    """The keyring that the secret opens and whose last epoch is this one; `kind` plain needs no secret."""
    for path in sorted((root / "keys").iterdir()):
        wrapper, keyring = json.loads(path.read_bytes()), None
        if wrapper["kind"] == kind == "plain":
            keyring = wrapper["keyring"]
        elif wrapper["kind"] == kind:
            nonce, wrapped = (bytes.fromhex(wrapper[field]) for field in ("nonce", "wrapped"))
            with suppress(InvalidTag):
                bound = b"offhost key wrapper 1" + path.name.encode()
                keyring = json.loads(AESGCM(wrapping_key(wrapper, kind, secret)).decrypt(nonce, wrapped, bound))
        if keyring and max(map(int, keyring["epochs"])) == epoch:
            return dict(keyring)
    raise ValueError("no wrapper opens with this secret")


class Repository:
    """An opened repository: what exists is what lies under `packs/`, less what is swept."""

    def __init__(self, root: Path, kind: str, secret: str = "") -> None:
        self.root = root
        in_force = max(self.listed("config"))
        keyring = keyring_of(root, struct.unpack_from("<H", (root / in_force).read_bytes(), 10)[0], kind, secret)
        self.id = bytes.fromhex(keyring["repository"])
        self.epochs = {int(epoch): bytes.fromhex(key) for epoch, key in keyring["epochs"].items()}
        self.content_key = bytes.fromhex(keyring["id_key"])
        self.metadata_key = kdf("offhost 1 metadata id key", self.content_key)
        config = self.opened(in_force)
        need((config["format"], config["suite"], config["read"]) == (1, 1, []), "made by a newer offhost")
        need(config["repository"] == self.id.hex(), "the configuration is another repository's")
        need(config.get("encrypted", True) == (kind != "plain"), "encryption is not as it should be")
        sweeps = [self.opened(name) for name in self.listed("sweeps")]
        said = {kind: self.marks(f"marks/{kind}-") for kind in ("forgotten", "pin", "unpin")}
        pinned = {mark["point"] for pin, mark in said["pin"].items() if pin not in said["unpin"]}
        self.dead = {point for sweep in sweeps for point in sweep["points"]}
        self.dead |= {mark["point"] for mark in said["forgotten"].values()} - pinned
        self.places: dict[bytes, list[Place]] = {}
        self.packs = {name.rpartition("/")[2] for name in self.listed("packs")}
        self.packs -= {pack for sweep in sweeps for pack in sweep["packs"]}
        for pack in sorted(self.packs):
            self.read_directory(pack)

    def listed(self, folder: str) -> list[str]:
        return sorted(str(path.relative_to(self.root)) for path in (self.root / folder).rglob("*") if path.is_file())

    def marks(self, prefix: str) -> dict[str, dict[str, Any]]:
        return {name[len(prefix) :]: self.opened(name) for name in self.listed("marks") if name.startswith(prefix)}

    def cipher(self, header: bytes, magic: bytes, kind: int, key_type: int) -> AESGCM:
        found, of_kind, suite, epoch, salt = struct.unpack("<8sBBH32s", header)
        need((found, of_kind, suite) == (magic, kind, 1), "not the header of such an object")
        return AESGCM(kdf("offhost 1 sealing key", self.epochs[epoch] + self.id + bytes([key_type]) + salt))

    def unsealed(self, name: str, limit: int = 64 << 20) -> bytes:
        """The payload of a sealed object, expanded."""
        data, kind = (self.root / name).read_bytes(), TYPES[name.partition("/")[0]]
        cipher = self.cipher(data[:44], b"OFFHOST\x01", kind, kind)
        frame = cipher.decrypt(bytes(12), data[44:], data[:44] + self.id + name.encode())
        need(0 <= zstandard.frame_content_size(frame) <= limit, f"{name} expands too far")
        return zstandard.ZstdDecompressor().decompress(frame)

    def opened(self, name: str) -> dict[str, Any]:
        return dict(json.loads(self.unsealed(name)))

    def read_directory(self, pack: str) -> None:
        data = (self.root / "packs" / pack[:2] / pack).read_bytes()
        need(blake3(data).hexdigest() == pack, f"pack {pack}: its bytes are not those its name says")
        (length,) = struct.unpack("<I", data[-4:])
        cipher = self.cipher(data[:44], b"OFFPACK\x01", 1, 0)
        directory = cipher.decrypt(b"\x01" + bytes(11), data[-4 - length : -4], data[:44] + self.id)
        at = 44
        for slot, (chunk, kind, codec, stored, plain) in enumerate(struct.iter_unpack("<32sBBII", directory)):
            self.places.setdefault(chunk, []).append(Place(pack, slot, at, stored, plain, kind, codec))
            at += stored
        need(at == len(data) - 4 - length, f"pack {pack}: its directory contradicts its size")

    def chunk(self, chunk: bytes, kind: int) -> bytes:
        """A chunk's plaintext, from the first copy."""
        need(chunk in self.places, f"chunk {chunk.hex()} is in no pack")
        place = self.places[chunk][0]
        need(place.kind == kind and place.plain <= 4 << 20, f"chunk {chunk.hex()} is not of the kind asked for")
        with (self.root / "packs" / place.pack[:2] / place.pack).open("rb") as file:
            header = file.read(44)
            file.seek(place.offset)
            sealed = file.read(place.stored)
        bound = header + self.id + struct.pack("<IBBI", place.slot, kind, place.codec, place.plain) + chunk
        packed = self.cipher(header, b"OFFPACK\x01", 1, 0).decrypt(place.slot.to_bytes(12, "big"), sealed, bound)
        if place.codec == LZ4:
            packed = lz4.block.decompress(packed, uncompressed_size=place.plain)
        elif place.codec == ZSTD:
            packed = zstandard.ZstdDecompressor().decompress(packed, max_output_size=place.plain)
        need(len(packed) == place.plain, f"chunk {chunk.hex()} has another length than its directory says")
        need(b3(self.content_key if kind == CONTENT else self.metadata_key, packed) == chunk, "another content")
        return packed

    def points(self) -> list[dict[str, Any]]:
        """The manifests of all points that count, each VM's in their order."""
        vm_key = kdf("offhost 1 vm name key", self.content_key)
        found: dict[str, dict[str, Any]] = {}
        for name in self.listed("points"):
            (_, folder, sid), point = name.split("/"), self.opened(name)
            if "tombstone" in point or sid in self.dead:
                continue
            need(point["format"] == 1 and point["id"] == sid, f"{name}: not the point its name says")
            need(b3(vm_key, point["vm"]["id"].encode())[:16].hex() == folder, f"{name}: of another VM")
            found[sid] = point | {"digest": blake3((self.root / name).read_bytes()).hexdigest()}
        for point in found.values():
            before = point["predecessor"]
            if before and before["id"] in found:
                need(before["digest"] == found[before["id"]]["digest"], f"point {before['id']} was exchanged")
        return sorted(found.values(), key=lambda each: (each["vm"]["id"], each["sequence"], each["time"], each["id"]))

    def file(self, file: dict[str, Any]) -> bytes:
        data = b"".join(self.chunk(bytes.fromhex(chunk), CONTENT) for chunk in file["chunks"])
        need(len(data) == file["size_bytes"], f"{file['name']} has another size than its point says")
        return data

    def disk(self, disk: dict[str, Any]) -> Iterator[tuple[int, bytes]]:
        """A disk's content as (offset, bytes), ascending; what is between reads as zeros."""
        count = -(-disk["size_bytes"] // SPAN)
        need(len(disk["pages"]) == -(-count // PAGE_SPANS), "the wrong number of list pages")
        table = b"".join(self.chunk(bytes.fromhex(page), PAGE) for page in disk["pages"])
        slots = [table[at : at + SLOT] for at in range(0, len(table), SLOT)]
        head = struct.pack("<Q", disk["size_bytes"]) + disk["cutter"].encode()
        root = b3(self.metadata_key, head + b"".join(slot[:32] for slot in slots))
        need(len(table) == count * SLOT and root.hex() == disk["root"], "the root digest does not match")
        for span, slot in enumerate(slots):
            if slot != bytes(SLOT):
                entries = self.entries(slot[32:64])
                need(b3(self.metadata_key, keyframe(entries)) == slot[:32], f"span {span} does not match its digest")
                need(sum(length for _, length, _ in entries) == int.from_bytes(slot[64:], "little"), "wrong span bytes")
                for start, length, chunk in entries:
                    data = self.chunk(chunk, CONTENT)
                    need(len(data) == length, f"chunk {chunk.hex()} is not as long as the map says")
                    yield span * SPAN + start, data

    def entries(self, leaf: bytes, below: int = 17) -> list[tuple[int, int, bytes]]:
        """A leaf's entries as (start, length, id), its patches applied."""
        plain = self.chunk(leaf, LEAF)
        if plain[0] == 0:
            return entries_at(plain, 1)
        need(plain[0] == 1 and 1 <= plain[1] <= 16 and plain[1] < below, "a leaf of unknown form, or too deep")
        parent, (count,) = self.entries(plain[2:34], plain[1]), struct.unpack_from("<I", plain, 34)
        columns = struct.unpack_from(f"<{3 * count}I", plain, 38)
        fresh = iter(entries_at(plain, 38 + 12 * count))
        result, done = [], 0
        for at, removed, inserted in zip(*(columns[n * count : (n + 1) * count] for n in range(3)), strict=True):
            need(done <= at and at + removed <= len(parent), "a patch does not fit its parent")
            result += parent[done:at] + [next(fresh) for _ in range(inserted)]
            done = at + removed
        need(next(fresh, None) is None, "a patch has entries left")
        return result + parent[done:]


def entries_at(leaf: bytes, at: int) -> list[tuple[int, int, bytes]]:
    (n,) = struct.unpack_from("<I", leaf, at)
    need(len(leaf) == at + 4 + 40 * n, "a leaf has another length than it says")
    starts, lengths = struct.unpack_from(f"<{n}I", leaf, at + 4), struct.unpack_from(f"<{n}I", leaf, at + 4 + 4 * n)
    return [(starts[i], lengths[i], leaf[at + 4 + 8 * n + 32 * i :][:32]) for i in range(n)]


def keyframe(entries: list[tuple[int, int, bytes]]) -> bytes:
    columns = [entry[0] for entry in entries] + [entry[1] for entry in entries]
    return struct.pack(f"<BI{len(columns)}I", 0, len(entries), *columns) + b"".join(entry[2] for entry in entries)


def main(root: str, *wanted: str) -> None:
    names = {"passphrase": "OFFHOST_PASSPHRASE", "recovery": "OFFHOST_RECOVERY_KEY", "keyfile": "OFFHOST_KEY"}
    kind = next((kind for kind, name in names.items() if name in os.environ), "plain")
    repository = Repository(Path(root), kind, os.environ.get(names.get(kind, ""), ""))
    for point in repository.points():
        disks = {disk["key"]: disk for disk in point["disks"]}
        files = {file["name"]: file for file in point["files"]}
        if not wanted:
            print(point["id"], point["vm"]["name"], point["time"], *disks, *files)
        elif point["id"] == wanted[0] and wanted[1] in files:
            Path(wanted[2]).write_bytes(repository.file(files[wanted[1]]))
        elif point["id"] == wanted[0]:
            with Path(wanted[2]).open("xb") as target:
                target.truncate(disks[wanted[1]]["size_bytes"])
                for offset, data in repository.disk(disks[wanted[1]]):
                    target.seek(offset)
                    target.write(data)


if __name__ == "__main__":
    main(*sys.argv[1:])
