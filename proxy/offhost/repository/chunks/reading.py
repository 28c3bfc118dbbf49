"""Chunks back from their packs.

Owns: grouping of reads by pack, so that each range is fetched once; the ciphers of packs read lately. Every chunk that
comes out was checked twice (packs.PackCipher.open_chunk); in place of a bad copy a good one is read. Where a chunk is
not what the index says, its pack's own directory decides. Does not own: what the chunks are for (diskmap, points).
"""

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import groupby

from offhost.backend.contract import Backend
from offhost.errors import BackendError, ChunkCorrupt, IntegrityError, ObjectNotFound, OffhostError, PackCorrupt
from offhost.ids import ChunkId
from offhost.repository.chunks.hand import Wanted
from offhost.repository.chunks.hands import Hand, HandLost, Hands
from offhost.repository.chunks.index import Index
from offhost.repository.chunks.packs import Kind, Location, PackCipher, pack_object, read_directory, read_header
from offhost.repository.chunks.rows import as_ids
from offhost.repository.chunks.segments import Segment
from offhost.repository.keys.keyring import Keyring

_log = logging.getLogger(__name__)

_FETCH_BYTES = 8 << 20
_GAP_BYTES = 64 << 10

Places = Mapping[ChunkId, Sequence[tuple[int, int]]]
"""Where chunks belong in a span, and how long they are there."""


@dataclass(frozen=True, slots=True)
class _Fetched:
    """Neighbours in a pack as they were read, or, without a cipher, why they could not be."""

    batch: list[tuple[ChunkId, Location]]
    cipher: PackCipher | None = None
    data: memoryview = field(default_factory=lambda: memoryview(b""))
    error: OffhostError = field(default_factory=lambda: PackCorrupt("not read"))

    def sealed(self, position: int) -> memoryview:
        """One of the chunks."""
        start = self.batch[position][1].offset - self.batch[0][1].offset
        return self.data[start : start + self.batch[position][1].stored]

    def positions(self) -> list[tuple["_Fetched", int]]:
        """Each of the chunks by its position."""
        return [(self, position) for position in range(len(self.batch))]

    def fits(self, places: Places) -> bool:
        """Whether each chunk is said to be as long as the places that are meant for it."""
        return all(at.plain == length for chunk, at in self.batch for _, length in places[chunk])

    def lay(self, hand: Hand, places: Places) -> bool:
        """Put it on a hand's tray; whether there was anything to put that fits, and room for it."""
        if self.cipher is None or not self.fits(places):
            return False
        wanted = [Wanted(chunk, at, [start for start, _ in places[chunk]]) for chunk, at in self.batch]
        return hand.lay(self.cipher, map(self.sealed, range(len(wanted))), wanted)


class PackReader:
    """Reads and checks chunks. Thread-safe."""

    def __init__(self, backend: Backend, keyring: Keyring, index: Index, hands: Hands | None = None) -> None:
        self._backend, self._index = backend, index
        self.hands = hands or Hands(0)
        metadata = keyring.metadata_id_key()
        self._id_keys: dict[int, bytes] = {Kind.CONTENT: keyring.id_key, Kind.LEAF: metadata, Kind.PAGE: metadata}
        lock = threading.Lock()

        @lru_cache(maxsize=256)
        def cipher(pack: str) -> PackCipher:
            with lock:
                return read_header(backend, keyring, pack)

        self._cipher = cipher

        @lru_cache(maxsize=4)
        def directory(pack: str) -> Segment:
            return Segment.of((pack,), read_directory(backend, keyring, pack))

        self._directory = directory

    def read_one(self, chunk: ChunkId, kind: Kind) -> bytes:
        """One chunk's plaintext."""
        ((_, plain),) = self.read_many([chunk], kind)
        return bytes(plain)

    def read_many(self, chunks: Sequence[ChunkId], kind: Kind) -> Iterator[tuple[ChunkId, bytes | memoryview]]:
        """The plaintext of distinct chunks, in the order they lie in.

        A copy that fails its checks is logged, and another one read in its place. Raises: IntegrityError naming pack,
        slot and offset when a chunk has no good copy, or is of another kind; BackendError when that cannot be said.
        """
        for fetched in self._fetch(chunks, kind):
            yield from self._open(fetched, kind)

    def fill(self, hand: Hand, places: Places, kind: Kind) -> None:
        """Have a hand open chunks into all their places in its span. Raises as `read_many` does."""
        laid: list[_Fetched] = []
        left: list[tuple[_Fetched, int]] = []
        for fetched in self._fetch(list(places), kind):
            if fetched.lay(hand, places):
                laid.append(fetched)
            else:
                left += fetched.positions()
        given = [position for fetched in laid for position in fetched.positions()]
        try:
            left += [given[at] for at in hand.open(self._id_keys)]
        except HandLost as error:
            _log.info("a process that opens chunks was lost, threads do its work: %s", error)
            left += given
        for fetched, position in left:
            chunk, _ = fetched.batch[position]
            _put(hand.span, chunk, self._open_one(fetched, position, kind), places[chunk])

    def read_to(self, span: memoryview, places: Places, kind: Kind) -> None:
        """Read chunks into all their places in a span's memory. Raises as `read_many` does."""
        for chunk, plain in self.read_many(list(places), kind):
            _put(span, chunk, plain, places[chunk])

    def _find(self, chunks: Sequence[ChunkId], kind: Kind) -> list[Location]:
        places, unreached = self._index.look_up(chunks), None
        if None in places:  # a collector elsewhere may have moved it since the packs were listed
            unreached = self._index.look_again()
            places = self._index.look_up(chunks)
        if None in places:
            unreached = self._index.ask_packs() or unreached
            places = self._index.look_up(chunks)
        found = []
        for chunk, told in zip(chunks, places, strict=True):
            if told is None:
                raise unreached or ChunkCorrupt(f"chunk {chunk.hex()[:12]} is in no pack")
            place = told if told.kind == kind else next(self._copies(chunk, kind, told.pack), None)
            if place is None:
                raise ChunkCorrupt(f"chunk {chunk.hex()[:12]} is no {kind.name.lower()}")
            found.append(place)
        return found

    def _fetch(self, chunks: Sequence[ChunkId], kind: Kind) -> Iterator["_Fetched"]:
        """The ranges of packs that the chunks lie in."""
        places = sorted(zip(chunks, self._find(chunks, kind), strict=True), key=_by_place)
        for pack, group in groupby(places, key=lambda place: place[1].pack):
            for batch in _batches(list(group)):
                yield self._fetched(pack, batch)

    def _fetched(self, pack: str, batch: list[tuple[ChunkId, Location]]) -> "_Fetched":
        (_, first), (_, last) = batch[0], batch[-1]
        length = last.offset + last.stored - first.offset
        try:
            data = memoryview(self._backend.get_range(pack_object(pack), first.offset, length))
            return _Fetched(batch, self._cipher(pack), data)
        except (IntegrityError, BackendError) as error:
            return _Fetched(batch, error=error)

    def _open(self, fetched: "_Fetched", kind: Kind) -> Iterator[tuple[ChunkId, bytes | memoryview]]:
        for position, (chunk, _) in enumerate(fetched.batch):
            yield chunk, self._open_one(fetched, position, kind)

    def _open_one(self, fetched: "_Fetched", position: int, kind: Kind) -> bytes | memoryview:
        chunk, at = fetched.batch[position]
        error = fetched.error
        if fetched.cipher:
            try:
                return fetched.cipher.open_chunk(chunk, at, fetched.sealed(position), self._id_keys[kind])
            except IntegrityError as wrong:
                error = wrong
        return self._reread(chunk, kind, at.pack, error)  # by itself: damage elsewhere in what was read is not its own

    def _reread(self, chunk: ChunkId, kind: Kind, pack: str, error: OffhostError) -> bytes | memoryview:
        """A chunk that could not be read in a pack, from there or from any other copy. Raises: what was wrong."""
        _log.warning("%s; looking for another copy", error)
        tried: set[Location] = set()
        for again in (False, True):
            if again:
                self._index.look_again()
            for at in self._copies(chunk, kind, pack):
                if at not in tried:
                    tried.add(at)
                    try:
                        sealed = self._backend.get_range(pack_object(at.pack), at.offset, at.stored)
                        return self._cipher(at.pack).open_chunk(chunk, at, sealed, self._id_keys[kind])
                    except (IntegrityError, BackendError) as another:
                        if str(another) != str(error):
                            _log.warning("%s", another)
                        if isinstance(another, IntegrityError):
                            self._index.distrust(at, str(another))
        if isinstance(error, ObjectNotFound):
            raise PackCorrupt(f"{error}; it has vanished since it was listed") from error
        raise error

    def _copies(self, chunk: ChunkId, kind: Kind, first: str) -> Iterator[Location]:
        """Where a chunk lies, in one pack first, then the best first: as the packs' own directories say.

        Index runs are a cache, and may be wrong; they are believed of a pack whose directory cannot be read.
        """
        for told in sorted(self._index.copies(chunk), key=lambda each: each.pack != first):
            own = [told]
            try:
                directory = self._directory(told.pack)
                own = directory.locations(directory.find(as_ids([chunk]))[1])
            except (IntegrityError, BackendError) as error:
                _log.warning("%s", error)
            if told not in own:
                _log.warning("%s: chunk %s is not there, though an index run says so", told.where, chunk.hex()[:12])
            yield from (at for at in own if at.kind == kind)

    def id_key(self, kind: Kind) -> bytes:
        """What ids of this kind are keyed with."""
        return self._id_keys[kind]


def _put(span: memoryview, chunk: ChunkId, plain: bytes | memoryview, places: Sequence[tuple[int, int]]) -> None:
    for start, length in places:
        if len(plain) != length:
            raise PackCorrupt(f"chunk {chunk.hex()[:12]} has {len(plain)} bytes where the map says {length}")
        span[start : start + length] = plain


def _by_place(place: tuple[ChunkId, Location]) -> tuple[str, int]:
    return place[1].pack, place[1].offset


def _batches(places: Sequence[tuple[ChunkId, Location]]) -> Iterator[list[tuple[ChunkId, Location]]]:
    """Neighbours in a pack that are worth one read."""
    batch: list[tuple[ChunkId, Location]] = []
    for chunk, at in places:
        if batch:
            first, last = batch[0][1], batch[-1][1]
            gap = at.offset - (last.offset + last.stored)
            if gap > _GAP_BYTES or at.offset + at.stored - first.offset > _FETCH_BYTES:
                yield batch
                batch = []
        batch.append((chunk, at))
    if batch:
        yield batch
