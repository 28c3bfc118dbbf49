"""Chunks back from their packs.

Owns: grouping of reads by pack, so that each range is fetched once; the ciphers of packs read lately. Every chunk that
comes out was checked twice (packs.PackCipher.open_chunk); in place of a bad copy a good one is read. Does not own: what
the chunks are for (diskmap, points).
"""

import logging
import threading
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import groupby

from offhost.backend.contract import Backend
from offhost.errors import BackendError, ChunkCorrupt, IntegrityError, ObjectNotFound, OffhostError, PackCorrupt
from offhost.ids import ChunkId
from offhost.repository.index import Index
from offhost.repository.keys import Keyring
from offhost.repository.packs import Kind, Location, PackCipher, pack_object, read_header

_log = logging.getLogger(__name__)

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

        A copy that fails its checks is logged, and another one read in its place. Raises: IntegrityError naming pack,
        slot and offset when a chunk has no good copy, or is of another kind.
        """
        places = sorted(zip(self._find(chunks, kind), chunks, strict=True), key=_by_place)
        for pack, group in groupby(places, key=lambda place: place[0].pack):
            for batch in _batches(list(group)):
                yield from self._fetch(pack, batch, self._id_keys[kind])

    def _find(self, chunks: Sequence[ChunkId], kind: Kind) -> list[Location]:
        places = self._index.look_up(chunks)
        if None in places:  # a collector elsewhere may have moved it since the packs were listed
            self._index.look_again()
            places = self._index.look_up(chunks)
        found = []
        for chunk, place in zip(chunks, places, strict=True):
            if place is None:
                raise ChunkCorrupt(
                    f"chunk {chunk.hex()[:12]} is in no pack", hint="`offhost repo verify` tells what it harms"
                )
            if place.kind != kind:
                raise ChunkCorrupt(f"chunk {chunk.hex()[:12]} is no {kind.name.lower()}")
            found.append(place)
        return found

    def _fetch(
        self, pack: str, batch: Sequence[tuple[Location, ChunkId]], id_key: bytes
    ) -> Iterator[tuple[ChunkId, bytes | memoryview]]:
        start, end = batch[0][0].offset, batch[-1][0].offset + batch[-1][0].stored
        try:
            data = memoryview(self._backend.get_range(pack_object(pack), start, end - start))
            cipher = self._cipher(pack)
        except (IntegrityError, BackendError) as error:
            for _, chunk in batch:  # each by itself: damage further on in the pack may leave this one whole
                yield chunk, self._another(chunk, None, id_key, error)
            return
        for at, chunk in batch:
            sealed = data[at.offset - start : at.offset - start + at.stored]
            try:
                plain = cipher.open_chunk(chunk, at, sealed, id_key)
            except IntegrityError as error:
                self._index.distrust(at, str(error))
                plain = self._another(chunk, at, id_key, error)
            yield chunk, plain

    def _another(self, chunk: ChunkId, bad: Location | None, id_key: bytes, error: OffhostError) -> bytes | memoryview:
        """A chunk from any of its copies but the bad one. Raises: what was wrong with the one tried first."""
        _log.warning("%s; looking for another copy", error)
        tried = {bad}
        for _ in range(2):
            for at in self._index.copies(chunk):
                if at not in tried:
                    tried.add(at)
                    try:
                        sealed = self._backend.get_range(pack_object(at.pack), at.offset, at.stored)
                        return self._cipher(at.pack).open_chunk(chunk, at, sealed, id_key)
                    except (IntegrityError, BackendError) as another:
                        _log.warning("%s", another)
                        if isinstance(another, IntegrityError):
                            self._index.distrust(at, str(another))
            self._index.look_again()
        if isinstance(error, ObjectNotFound):
            raise PackCorrupt(f"{error}; it has vanished since it was listed") from error
        raise error

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
