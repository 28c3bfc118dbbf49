"""Indexes for tests without the chunks: packs that are listed, and runs that say what they hold."""

import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from offhost.backend.local import LocalBackend
from offhost.ids import ChunkId
from offhost.repository.chunks.index import Index
from offhost.repository.chunks.packs import ENTRY, Entries, pack_object
from offhost.repository.chunks.runs import Run, put_run
from offhost.repository.keys.keyring import Keyring

CHUNK_BYTES = 1000


def chunk_ids(seed: int, count: int) -> list[ChunkId]:
    """Ids as BLAKE3 would give them."""
    raw = np.random.default_rng(seed).bytes(32 * count)
    return [ChunkId(raw[at : at + 32]) for at in range(0, len(raw), 32)]


def entries_of(packs: Sequence[Sequence[ChunkId]]) -> Entries:
    """Entries of whole packs, each with these chunks in its slots."""
    entries = np.zeros(sum(map(len, packs)), ENTRY)
    at = 0
    for number, chunks in enumerate(packs):
        part = entries[at : at + len(chunks)]
        at += len(chunks)
        part["id"] = np.frombuffer(b"".join(chunks), "V32")
        part["pack"], part["slot"] = number, np.arange(len(chunks))
        part["offset"] = 44 + np.arange(len(chunks)) * 100
        part["stored"], part["plain"], part["kind"] = 100, CHUNK_BYTES, 1
    return entries


class IndexedPacks:
    """A repository's packs and runs, as far as an index sees them."""

    def __init__(self, root: Path) -> None:
        self.backend = LocalBackend.create(root, ["index", *(f"packs/{number:02x}" for number in range(256))])
        self.keyring = Keyring.new()

    def new_pack(self) -> str:
        """The name of a pack that is listed from now on; nothing is in it."""
        name = secrets.token_hex(32)
        self.backend.put(pack_object(name), b"")
        return name

    def remove(self, pack: str) -> None:
        """Take a pack off the list."""
        self.backend.delete(pack_object(pack))

    def store(self, *packs: Sequence[ChunkId]) -> list[str]:
        """New packs that hold these chunks, covered by one run; their names."""
        names = [self.new_pack() for _ in packs]
        put_run(self.backend, self.keyring, Run(tuple(names), entries_of(packs)))
        return names

    def index(self, cache: Path | None = None) -> Index:
        """An index that has looked at it."""
        if cache:
            cache.mkdir(mode=0o700, exist_ok=True)
        index = Index(self.backend, self.keyring, cache)
        index.refresh(frozenset(), frozenset())
        return index


def packs_of(index: Index, chunks: Sequence[ChunkId], *, for_writing: bool = False) -> list[str | None]:
    """In which pack each chunk is said to lie."""
    return [place and place.pack for place in index.look_up(chunks, for_writing=for_writing)]


def truth(packs: Mapping[str, Sequence[ChunkId]]) -> set[tuple[ChunkId, str, int]]:
    """Every copy: chunk, pack and slot."""
    return {(chunk, pack, slot) for pack, chunks in packs.items() for slot, chunk in enumerate(chunks)}
