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
from offhost.repository.rows import key_column, sorted_by_id
from offhost.repository.sealed import ObjectType, expand, seal, unseal

RUN_LIMIT_BYTES = 512 << 20
RUN_LIMIT_ENTRIES = 4_000_000

SHARD_BITS_LIMIT = 16

_LEFT_OUT = 0xFFFFFFFF
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Run:
    """The entries of whole packs; an entry's `pack` is a position in `packs`."""

    packs: tuple[str, ...]
    entries: Entries
    shard_bits: int = 0
    shard: int = 0

    def of_packs(self, packs: Sequence[str]) -> Entries:
        """The entries of some of its packs, renumbered in their order."""
        numbers = {pack: number for number, pack in enumerate(packs)}
        places = np.array([numbers.get(pack, _LEFT_OUT) for pack in self.packs], np.uint32)
        entries: Entries = self.entries[places[self.entries["pack"]] != _LEFT_OUT]
        entries["pack"] = places[entries["pack"]]
        return entries


class Coverage:
    """Which packs some runs cover whole: those that every shard names."""

    def __init__(self) -> None:
        self._shards: dict[tuple[str, ...], set[tuple[int, int]]] = {}

    def add(self, run: Run) -> None:
        """One more run."""
        self._shards.setdefault(run.packs, set()).add((run.shard_bits, run.shard))

    def whole(self) -> set[str]:
        """The packs that are covered in every shard."""
        found = {pack for packs, shards in self._shards.items() if _complete(shards) for pack in packs}
        of_pack: dict[str, set[tuple[int, int]]] = {}
        for packs, shards in self._shards.items():
            if not _complete(shards):
                for pack in packs:
                    of_pack.setdefault(pack, set()).update(shards)
        return found | {pack for pack, shards in of_pack.items() if _complete(shards)}


def _complete(shards: set[tuple[int, int]]) -> bool:
    """Whether shards, each its number of bits and their value, leave no id out."""
    widest = [
        (bits, shard)
        for bits, shard in shards
        if not any((less, shard >> bits - less) in shards for less in range(bits))
    ]
    return sum(1 << SHARD_BITS_LIMIT - bits for bits, _ in widest) == 1 << SHARD_BITS_LIMIT


def put_run(backend: Backend, keyring: Keyring, run: Run) -> str:
    """Store a run, sorted by id; its name."""
    name = f"index/{secrets.token_hex(16)}"
    head = json.dumps({"packs": list(run.packs), "supersedes": [], "shard": [0, 0]}).encode()
    entries = sorted_by_id(run.entries)
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
        bits, shard = map(int, head["shard"])
        entries = np.frombuffer(plain, ENTRY, offset=_LENGTH.size + length)
    except (struct.error, ValueError, KeyError, IndexError, TypeError) as error:
        raise PackCorrupt(f"{name}: not an index run: {error}") from error
    if not _plausible(packs, entries) or not _in_shard(entries, bits, shard):
        raise IndexInconsistent(f"{name}: its entries leave the packs that it names, or its shard")
    return Run(packs, entries, bits, shard)


def _in_shard(entries: Entries, bits: int, shard: int) -> bool:
    if not 0 <= bits <= SHARD_BITS_LIMIT or not 0 <= shard < 1 << bits:
        return False
    return bits == 0 or bool((key_column(entries) >> np.uint64(64 - bits) == shard).all())


def _plausible(packs: Sequence[str], entries: Entries) -> bool:
    ends = entries["offset"].astype(np.uint64) + entries["stored"]
    return bool(
        (entries["pack"] < len(packs)).all()
        and (ends <= PACK_LIMIT_BYTES).all()
        and (entries["plain"] <= CHUNK_LIMIT_BYTES).all()
    )
