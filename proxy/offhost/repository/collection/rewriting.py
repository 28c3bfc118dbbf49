"""Moving what is needed out of packs that are mostly dead.

Owns: reading sealed chunks and sealing them into new packs, unchanged in form, under the key epoch in force.
Does not own: which packs are rewritten and when the old ones may go (collect).
"""

import logging
import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from offhost.backend.contract import Backend
from offhost.chunking.spans import CompressedChunk
from offhost.errors import ChunkCorrupt
from offhost.ids import ChunkId
from offhost.repository.chunks.packs import (
    Entries,
    Kind,
    Location,
    OpenPack,
    pack_buffer,
    pack_object,
    read_header,
)
from offhost.repository.chunks.reading import PackReader
from offhost.repository.chunks.store import ChunkStore
from offhost.repository.keys.keyring import Keyring
from offhost.repository.objects.putting import put_retrying

_log = logging.getLogger(__name__)

_FETCH_BYTES = 8 << 20


@dataclass(slots=True)
class Rewriter:
    """Copies chunks into new packs. For one thread; holds one pack in memory.

    What is in `durable` is that, whatever happens later. A rewriter that is given up leaves surplus copies at worst.
    """

    backend: Backend
    keyring: Keyring
    store: ChunkStore
    reader: PackReader
    moved_bytes: int = 0
    durable: set[ChunkId] = field(default_factory=set)
    _buffer: mmap.mmap = field(default_factory=pack_buffer)
    _pack: OpenPack | None = None

    def move(self, pack: str, entries: Sequence[tuple[ChunkId, Location]]) -> frozenset[int]:
        """Copy these chunks of a pack; the slots of those that are not what they were, and are not copied.

        Raises: PackCorrupt when the pack as a whole cannot be read; BackendError.
        """
        bad = set()
        cipher = read_header(self.backend, self.keyring, pack)
        for batch in _batches(entries):
            start, end = batch[0][1].offset, batch[-1][1].offset + batch[-1][1].stored
            data = memoryview(self.backend.get_range(pack_object(pack), start, end - start))
            for chunk, at in batch:
                sealed = data[at.offset - start : at.offset - start + at.stored]
                kind = Kind(at.kind)
                try:
                    unpacked = cipher.unpack_chunk(chunk, at, sealed, self.reader.id_key(kind))
                except ChunkCorrupt as error:
                    _log.warning("%s", error)
                    bad.add(at.slot)
                else:
                    self._add(unpacked, kind)
        return frozenset(bad)

    def _add(self, chunk: CompressedChunk, kind: Kind) -> None:
        if self._pack and not self._pack.fits(len(chunk.data)):
            self._put()
        self._pack = self._pack or OpenPack(self.keyring, self._buffer)
        self._pack.add(chunk, kind)
        self._pack.check_last(chunk, kind)

    def _put(self) -> None:
        if self._pack:
            name, entries = self._pack.close()
            with memoryview(self._buffer) as view:
                put_retrying(self.backend, pack_object(name), view[: self._pack.size_bytes])
            self.moved_bytes += self._pack.size_bytes
            self._pack = None
            self._publish(name, entries)

    def _publish(self, name: str, entries: Entries) -> None:
        self.durable.update(map(ChunkId, entries["id"].tolist()))
        self.store.index.add(name, entries)
        self.store.packer.give_back_unindexed({name: entries})

    def finish(self) -> None:
        """Make durable what was moved, and known in a run. Raises: BackendError."""
        self._put()
        self.store.cover_new_packs()


def _batches(entries: Sequence[tuple[ChunkId, Location]]) -> Iterator[list[tuple[ChunkId, Location]]]:
    """Neighbours, in the order they lie in, within one fetch."""
    batch: list[tuple[ChunkId, Location]] = []
    for entry in sorted(entries, key=lambda entry: entry[1].offset):
        if batch and entry[1].offset + entry[1].stored - batch[0][1].offset > _FETCH_BYTES:
            yield batch
            batch = []
        batch.append(entry)
    if batch:
        yield batch
