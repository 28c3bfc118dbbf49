"""Sorted arrays of index entries: in memory, or memory-mapped from a private local file.

Owns: look-up in one sorted array, the layout of a cached file, merging. Does not own: which packs count (index).
A cached file is this process's own memory on disk: losing it costs reading the runs again, and one that does not
match its checksum is treated as lost.
"""

import json
import os
import secrets
import struct
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import blake3
import numpy as np
from numpy.typing import NDArray

from offhost.repository.packs import ENTRY, Entries

_MAGIC = b"OFFSEG\x00\x01"
_HEAD = struct.Struct("<8s32sII")


@dataclass(frozen=True, slots=True)
class Segment:
    """Entries sorted by id. `keys` holds the first eight bytes of each id, which are what is searched."""

    packs: tuple[str, ...]
    keys: NDArray[np.uint64]
    entries: Entries
    path: Path | None = None

    def __len__(self) -> int:
        return len(self.keys)

    @classmethod
    def of(cls, packs: Sequence[str], entries: Entries) -> "Segment":
        """Sort entries, whose `pack` is a position in `packs`, in memory."""
        keys = id_keys(entries["id"])
        order = np.argsort(keys, kind="stable")
        return cls(tuple(packs), keys[order], entries[order])

    def find(self, wanted: NDArray[np.uint64]) -> NDArray[np.intp]:
        """The first position whose key is not less, for each key wanted."""
        return np.searchsorted(self.keys, wanted)

    def save(self, folder: Path) -> "Segment":
        """Write to a private file and map it instead of holding it; in memory still when it cannot be written."""
        head = json.dumps(list(self.packs)).encode()
        head += b" " * (-len(head) % 8)
        digest = blake3.blake3(head)
        columns = self.keys.tobytes(), self.entries.tobytes()
        digest.update(columns[0]).update(columns[1])
        path = folder / f"{secrets.token_hex(8)}.seg"
        try:
            fd = os.open(path.with_suffix(".new"), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with open(fd, "wb") as file:
                file.write(_HEAD.pack(_MAGIC, digest.digest(), len(head), len(self.keys)) + head)
                file.writelines(columns)
            path.with_suffix(".new").rename(path)
            return load(path) or self
        except OSError:
            with suppress(OSError):
                path.with_suffix(".new").unlink()
            return self

    def forget(self) -> None:
        """Remove the cached file; what is mapped stays readable."""
        if self.path:
            with suppress(OSError):
                self.path.unlink()


def load(path: Path) -> Segment | None:
    """Map a cached file; None, and the file removed, when it is not whole."""
    try:
        data = np.memmap(path, np.uint8, "r")
        magic, digest, head_bytes, count = _HEAD.unpack(data[: _HEAD.size].tobytes())
        body = data[_HEAD.size :]
        if magic == _MAGIC and blake3.blake3(body.data).digest() == digest:
            keys_end = head_bytes + 8 * count
            packs = tuple(json.loads(body[:head_bytes].tobytes()))
            return Segment(packs, body[head_bytes:keys_end].view("<u8"), body[keys_end:].view(ENTRY), path)
    except (OSError, ValueError, struct.error):
        pass
    with suppress(OSError):
        path.unlink()
    return None


def id_keys(ids: NDArray[np.void]) -> NDArray[np.uint64]:
    """The first eight bytes of ids, big-endian, so that keys sort as ids do."""
    raw = np.ascontiguousarray(ids).view(np.uint8).reshape(-1, 32)[:, :8]
    return np.ascontiguousarray(raw).view(">u8").reshape(-1).astype(np.uint64)


def merged(segments: Sequence[Segment]) -> Segment:
    """All entries of several segments as one."""
    packs: dict[str, int] = {}
    parts = []
    for segment in segments:
        places = np.array([packs.setdefault(pack, len(packs)) for pack in segment.packs], np.uint32)
        part = np.array(segment.entries)
        if len(part):
            part["pack"] = places[part["pack"]]
        parts.append(part)
    entries = np.concatenate([np.zeros(0, ENTRY), *parts])
    # as plain bytes, which numpy can compare; all are of one length, so that padding cannot make two equal
    return Segment.of(list(packs), np.unique(entries.view(f"S{ENTRY.itemsize}")).view(ENTRY))
