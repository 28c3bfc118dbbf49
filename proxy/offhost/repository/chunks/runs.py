"""Index runs: whole packs' entries as objects of the repository.

Owns: FORMAT.md, "Index runs", but for when runs are merged (consolidation). Does not own: looking chunks up (index),
the choice of what a new run covers (store).
"""

import json
import secrets
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import zstandard

from offhost.backend.contract import Backend
from offhost.errors import IndexInconsistent, PackCorrupt
from offhost.repository.chunks.packs import CHUNK_LIMIT_BYTES, ENTRY, PACK_LIMIT_BYTES, Entries
from offhost.repository.chunks.rows import key_column, sorted_by_id
from offhost.repository.keys.keyring import Keyring
from offhost.repository.objects.putting import put_retrying
from offhost.repository.objects.sealed import ObjectType, expand, json_object, seal, unseal

RUN_LIMIT_BYTES = 512 << 20
RUN_LIMIT_ENTRIES = 4_000_000
RUN_ENTRIES = 1 << 17
"""Entries that are put into one run: 7 MiB of them, so that reading it takes little memory."""
SHARD_BITS_LIMIT = 16

_HEAD_LIMIT_BYTES = 64 << 20
_LEFT_OUT = 0xFFFFFFFF
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Shard:
    """The ids that begin with these bits; of no bits, all."""

    bits: int = 0
    prefix: int = 0


@dataclass(frozen=True, slots=True)
class Run:
    """The entries of whole packs, as far as their ids are the shard's; an entry's `pack` is a position in `packs`."""

    packs: tuple[str, ...]
    entries: Entries
    shard: Shard = Shard()

    def of_packs(self, packs: Sequence[str]) -> Entries:
        """The entries of some of its packs, renumbered in their order."""
        if tuple(packs) == self.packs:
            return self.entries
        numbers = {pack: number for number, pack in enumerate(packs)}
        places = np.array([numbers.get(pack, _LEFT_OUT) for pack in self.packs], np.uint32)
        entries: Entries = self.entries[places[self.entries["pack"]] != _LEFT_OUT]
        entries["pack"] = places[entries["pack"]]
        return entries


class Coverage:
    """Which packs some runs cover whole: those that every shard names."""

    def __init__(self) -> None:
        self._shards: dict[tuple[str, ...], set[Shard]] = {}

    def add(self, packs: tuple[str, ...], shard: Shard) -> None:
        """One more run."""
        self._shards.setdefault(packs, set()).add(shard)

    def named(self) -> set[str]:
        """All packs that some run tells of."""
        return {pack for packs in self._shards for pack in packs}

    def whole(self) -> set[str]:
        """The packs that are covered in every shard."""
        found: set[str] = set()
        of_pack: dict[str, set[Shard]] = {}
        for packs, shards in self._shards.items():
            if complete(shards):
                found.update(packs)
            else:
                for pack in packs:
                    of_pack.setdefault(pack, set()).update(shards)
        return found | {pack for pack, shards in of_pack.items() if complete(shards)}


def complete(shards: set[Shard]) -> bool:
    """Whether shards leave no id out."""

    def within_another(shard: Shard) -> bool:
        return any(Shard(bits, shard.prefix >> shard.bits - bits) in shards for bits in range(shard.bits))

    apart = (shard.bits for shard in shards if not within_another(shard))
    return sum(1 << SHARD_BITS_LIMIT - bits for bits in apart) == 1 << SHARD_BITS_LIMIT


def put_run(backend: Backend, keyring: Keyring, run: Run, supersedes: Iterable[str] = ()) -> str:
    """Store a run, sorted by id; its name."""
    name = f"index/{secrets.token_hex(16)}"
    old = sorted(each.rpartition("/")[2] for each in supersedes)
    value = {"packs": list(run.packs), "supersedes": old, "shard": [run.shard.bits, run.shard.prefix]}
    head = json.dumps(value).encode()
    plain = _LENGTH.pack(len(head)) + head + sorted_by_id(run.entries).tobytes()
    put_retrying(backend, name, seal(keyring, ObjectType.INDEX, name, zstandard.ZstdCompressor().compress(plain)))
    return name


def get_run(backend: Backend, keyring: Keyring, name: str) -> Run:
    """Read a run. Raises: ObjectNotFound; PackCorrupt; IndexInconsistent when it contradicts itself."""
    plain = expand(name, _opened(backend, keyring, name), RUN_LIMIT_BYTES)
    try:
        (length,) = _LENGTH.unpack_from(plain)
        packs, shard = _head(json_object(name, plain[_LENGTH.size : _LENGTH.size + length]))
        entries = np.frombuffer(plain, ENTRY, offset=_LENGTH.size + length)
    except _MALFORMED as error:
        raise PackCorrupt(f"{name}: not an index run: {error!r}") from error
    if not _plausible(packs, entries, shard):
        raise IndexInconsistent(f"{name}: its entries leave the packs that it names, or its shard")
    return Run(packs, entries, shard)


def get_head(backend: Backend, keyring: Keyring, name: str) -> tuple[tuple[str, ...], Shard]:
    """What a run covers: its packs, and the shard of their ids. Raises: ObjectNotFound; PackCorrupt."""
    try:
        with zstandard.ZstdDecompressor().stream_reader(_opened(backend, keyring, name)) as stream:
            (length,) = _LENGTH.unpack(stream.read(_LENGTH.size))
            if length > _HEAD_LIMIT_BYTES:
                raise ValueError(f"a head of {length} bytes")
            return _head(json_object(name, stream.read(length)))
    except (*_MALFORMED, zstandard.ZstdError) as error:
        raise PackCorrupt(f"{name}: not an index run: {error!r}") from error


_MALFORMED = (struct.error, ValueError, KeyError, TypeError)


def _opened(backend: Backend, keyring: Keyring, name: str) -> bytes:
    return unseal(keyring, ObjectType.INDEX, name, backend.get(name, RUN_LIMIT_BYTES))


def _head(value: dict[str, Any]) -> tuple[tuple[str, ...], Shard]:
    bits, prefix = value["shard"]
    if not isinstance(bits, int) or not isinstance(prefix, int):
        raise TypeError("a shard of something else than numbers")
    if not 0 <= bits <= SHARD_BITS_LIMIT or not 0 <= prefix < 1 << bits:
        raise ValueError(f"no shard: {bits}, {prefix}")
    return tuple(str(pack) for pack in value["packs"]), Shard(bits, prefix)


def _plausible(packs: Sequence[str], entries: Entries, shard: Shard) -> bool:
    ends = entries["offset"].astype(np.uint64) + entries["stored"]
    return bool(
        len(entries) <= RUN_LIMIT_ENTRIES
        and (entries["pack"] < len(packs)).all()
        and (ends <= PACK_LIMIT_BYTES).all()
        and (entries["plain"] <= CHUNK_LIMIT_BYTES).all()
        and (not shard.bits or (key_column(entries) >> np.uint64(64 - shard.bits) == shard.prefix).all())
    )
