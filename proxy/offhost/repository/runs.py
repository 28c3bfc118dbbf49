"""Index runs: whole packs' entries as objects of the repository.

Owns: FORMAT.md, "Index runs". Does not own: looking chunks up (index), the choice of what a run covers (store).
"""

import json
import secrets
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import zstandard

from offhost.backend.contract import Backend
from offhost.errors import IndexInconsistent, PackCorrupt
from offhost.repository.keys import Keyring
from offhost.repository.packs import CHUNK_LIMIT_BYTES, ENTRY, PACK_LIMIT_BYTES, Entries
from offhost.repository.sealed import ObjectType, expand, seal, unseal

RUN_LIMIT_BYTES = 512 << 20
RUN_LIMIT_ENTRIES = 4_000_000

_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Run:
    """The entries of whole packs; an entry's `pack` is a position in `packs`."""

    packs: tuple[str, ...]
    entries: Entries
    shard_bits: int = 0


def put_run(backend: Backend, keyring: Keyring, run: Run) -> str:
    """Store a run, sorted by id; its name."""
    name = f"index/{secrets.token_hex(16)}"
    head = json.dumps({"packs": list(run.packs), "supersedes": [], "shard": [0, 0]}).encode()
    entries = run.entries[np.argsort(run.entries["id"].view("S32"), kind="stable")]
    plain = _LENGTH.pack(len(head)) + head + entries.tobytes()
    backend.put(name, seal(keyring, ObjectType.INDEX, name, zstandard.ZstdCompressor().compress(plain)))
    return name


def get_run(backend: Backend, keyring: Keyring, name: str) -> Run:
    """Read a run. Raises: ObjectNotFound; PackCorrupt; IndexInconsistent when it contradicts itself."""
    sealed = backend.get(name, RUN_LIMIT_BYTES)
    plain = expand(name, unseal(keyring, ObjectType.INDEX, name, sealed), RUN_LIMIT_BYTES)
    try:
        (length,) = _LENGTH.unpack_from(plain)
        head = json.loads(plain[_LENGTH.size : _LENGTH.size + length])
        packs = tuple(str(pack) for pack in head["packs"])
        shard_bits = int(head["shard"][0])
        entries = np.frombuffer(plain, ENTRY, offset=_LENGTH.size + length)
    except (struct.error, ValueError, KeyError, IndexError, TypeError) as error:
        raise PackCorrupt(f"{name}: not an index run: {error}") from error
    if not _plausible(packs, entries):
        raise IndexInconsistent(f"{name}: its entries leave the packs that it names")
    return Run(packs, entries, shard_bits)


def _plausible(packs: Sequence[str], entries: Entries) -> bool:
    ends = entries["offset"].astype(np.uint64) + entries["stored"]
    return bool(
        (entries["pack"] < len(packs)).all()
        and (ends <= PACK_LIMIT_BYTES).all()
        and (entries["plain"] <= CHUNK_LIMIT_BYTES).all()
    )
