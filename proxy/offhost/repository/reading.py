"""Chunks back from their packs.

Owns: grouping of reads by pack, so that each range is fetched once; the ciphers of packs read lately. Every chunk that
comes out was checked twice (packs.PackCipher.open_chunk). Does not own: what the chunks are for (diskmap, points).
"""

import threading
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import groupby

from offhost.backend.contract import Backend
from offhost.errors import ChunkCorrupt, ObjectNotFound, PackCorrupt
from offhost.ids import ChunkId
from offhost.repository.index import Index
from offhost.repository.keys import Keyring
from offhost.repository.packs import Kind, Location, PackCipher, pack_object, read_header

_FETCH_BYTES = 8 << 20
_GAP_BYTES = 64 << 10


class PackReader:
    """Reads and checks chunks. Thread-safe."""

    def __init__(self, backend: Backend, keyring: Keyring, index: Index) -> None:
        self._backend, self._index = backend, index
        metadata = keyring.metadata_id_key()
        self._id_keys = {Kind.CONTENT: keyring.id_key, Kind.LEAF: metadata, Kind.PAGE: metadata}
        lock = threading.Lock()

        @lru_cache(maxsize=256)
        def cipher(pack: str) -> PackCipher:
            with lock:
                return read_header(backend, keyring, pack)

        self._cipher = cipher

    def read_one(self, chunk: ChunkId, kind: Kind) -> bytes:
        """One chunk's plaintext."""
        ((_, plain),) = self.read_many([chunk], kind)
        return bytes(plain)

    def read_many(self, chunks: Sequence[ChunkId], kind: Kind) -> Iterator[tuple[ChunkId, bytes | memoryview]]:
        """The plaintext of distinct chunks, in the order they lie in.

        Raises: IntegrityError naming pack, slot and offset when one is missing, damaged, or of another kind.
        """
        found = list(zip(chunks, self._index.look_up(chunks), strict=True))
        for chunk, location in found:
            if location is None:
                raise ChunkCorrupt(
                    f"chunk {chunk.hex()[:12]} is in no pack", hint="`offhost repo verify` tells what it harms"
                )
            if location.kind != kind:
                raise ChunkCorrupt(f"chunk {chunk.hex()[:12]} is no {kind.name.lower()}")
        places = sorted(((location, chunk) for chunk, location in found if location), key=_by_place)
        for pack, group in groupby(places, key=lambda place: place[0].pack):
            for batch in _batches(list(group)):
                yield from self._fetch(pack, batch, self._id_keys[kind])

    def _fetch(
        self, pack: str, batch: Sequence[tuple[Location, ChunkId]], id_key: bytes
    ) -> Iterator[tuple[ChunkId, bytes | memoryview]]:
        start, end = batch[0][0].offset, batch[-1][0].offset + batch[-1][0].stored
        try:
            data = memoryview(self._backend.get_range(pack_object(pack), start, end - start))
            cipher = self._cipher(pack)
        except ObjectNotFound as error:
            raise PackCorrupt(f"{pack_object(pack)} has vanished since it was listed") from error
        for at, chunk in batch:
            sealed = data[at.offset - start : at.offset - start + at.stored]
            yield chunk, cipher.open_chunk(chunk, at, sealed, id_key)

    def id_key(self, kind: Kind) -> bytes:
        """What ids of this kind are keyed with."""
        return self._id_keys[kind]


def _by_place(place: tuple[Location, ChunkId]) -> tuple[str, int]:
    return place[0].pack, place[0].offset


def _batches(places: Sequence[tuple[Location, ChunkId]]) -> Iterator[list[tuple[Location, ChunkId]]]:
    """Neighbours in a pack that are worth one read."""
    batch: list[tuple[Location, ChunkId]] = []
    for place in places:
        if batch:
            first, last = batch[0][0], batch[-1][0]
            gap = place[0].offset - (last.offset + last.stored)
            if gap > _GAP_BYTES or place[0].offset + place[0].stored - first.offset > _FETCH_BYTES:
                yield batch
                batch = []
        batch.append(place)
    if batch:
        yield batch
