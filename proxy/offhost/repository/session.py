"""A write session: the scope in which what was added becomes durable together, under one restore point.

Owns: the order of the commit. Does not own: being present (presence), claims, packs, the point's content.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import blake3
import zstandard

from offhost.backend.contract import Backend
from offhost.chunking.compress import Codec, Compression
from offhost.chunking.spans import Chunking, ChunkRef, CompressedChunk, SpanMap, StoredSpan, compressed, store_span
from offhost.clock import Clock
from offhost.errors import IntegrityError, OffhostError, SessionFenced, Stopped
from offhost.ids import ChunkId, VmId
from offhost.repository.chunks.claims import Claim
from offhost.repository.chunks.hands import Hand, HandLost, Hands
from offhost.repository.chunks.packer import WriteCheck
from offhost.repository.chunks.packs import Kind
from offhost.repository.chunks.store import ChunkStore
from offhost.repository.keys.keyring import Keyring
from offhost.repository.objects.graves import Graveyard
from offhost.repository.objects.presence import Presence
from offhost.repository.objects.putting import put_retrying
from offhost.repository.objects.sealed import PAYLOAD_LIMIT_BYTES, ObjectType, seal_json
from offhost.repository.points.diskmap import DiskMap, DiskMapWriter
from offhost.repository.points.manifest import Manifest, to_json

_STALLED_S = 60.0
"""How long no promise of another session may be kept before those left are taken over."""
_LOOK_AGAIN_S = 0.5
_CLAIMS_LIMIT = 256


class WriteSession:
    """Takes chunks (it is a ChunkSink) and commits one restore point.

    Thread-safe. Nothing refers to what it stored until `commit` has put the point; leaving the scope without a commit
    aborts.
    """

    def __init__(
        self,
        backend: Backend,
        keyring: Keyring,
        store: ChunkStore,
        graveyard: Graveyard,
        *,
        vm: VmId,
        clock: Clock,
        check: WriteCheck,
    ) -> None:
        self._backend, self._keyring, self._store, self._check = backend, keyring, store, check
        self._graveyard = graveyard
        self._presence = Presence(backend, keyring, vm, clock)
        self.id, self.vm = self._presence.id, vm
        self.stored_bytes = 0
        self._lock = threading.Lock()
        self._promised: dict[ChunkId, Claim] = {}
        self._own: set[Claim] = set()
        self._relied: dict[Claim, set[ChunkId]] = {}
        self._distrusted: frozenset[Claim] = frozenset()
        self._lost: set[ChunkId] = set()
        self.sound_under = ""
        """What tells the damage that was known when this session looked; empty when there was none."""
        self.replaced = 0
        """Chunks stored anew because all their copies are damaged."""

    def open(self) -> None:
        """Reserve the point's name, durably, and begin to beat. To be followed by a look at what is condemned."""
        self._presence.begin("write", self._presence.point)

    def missing(self, ids: Sequence[ChunkId], lengths: Sequence[int]) -> Sequence[int]:
        """Which of these chunks this session must put; what it relies on others for is settled before the commit."""
        del lengths  # an agent's client plans its requests by them; here a chunk costs the same whatever its length
        with self._lock:
            wanted, relied = self._claim(ids)
            for chunk, other in relied.items():
                self._relied.setdefault(other, set()).add(chunk)
        return wanted

    def _claim(
        self, ids: Sequence[ChunkId], distrusted: frozenset[Claim] = frozenset()
    ) -> tuple[list[int], dict[ChunkId, Claim]]:
        """Promise what nobody has; what others have promised. The session's lock is held."""
        wanted, claim, relied = self._store.claims.claim(ids, self._distrusted | distrusted)
        if wanted:
            self._promised.update((ids[at], claim) for at in wanted)
            if self._doubts():
                self.replaced += sum(self._store.index.only_damaged([ids[at] for at in wanted]))
            self._own = {own for own in self._own if not own.kept} if len(self._own) > _CLAIMS_LIMIT else self._own
            self._own.add(claim)
        return wanted, {chunk: other for chunk, other in relied.items() if other not in self._own}

    def put(self, chunks: Sequence[CompressedChunk]) -> None:
        """Seal and send on chunks that `missing` named."""
        self._put(chunks, Kind.CONTENT)

    def _put(self, chunks: Sequence[CompressedChunk], kind: Kind) -> None:
        with self._keeping(chunks) as claims:
            stored = self._store.packer.add(chunks, kind, claims, self._check)
        with self._lock:
            self.stored_bytes += stored

    @contextmanager
    def _keeping(self, chunks: Sequence[CompressedChunk | ChunkRef]) -> Iterator[list[Claim]]:
        """A scope in which these chunks are stored; their promises break when it fails."""
        with self._lock:
            promised = [(chunk.id, self._promised.pop(chunk.id)) for chunk in chunks]
        try:
            yield [claim for _, claim in promised]
        except BaseException as error:
            known = error if isinstance(error, OffhostError) else SessionFenced(f"sealing failed: {error!r}")
            self._store.claims.broken(promised, known)
            raise

    @property
    def hands(self) -> Hands:
        """Processes that do the work on spans, where there are any."""
        return self._store.hands

    def store_span(self, hand: Hand, length: int, chunking: Chunking) -> StoredSpan:
        """What chunking.store_span does, for a span in the memory of a hand, which does all but the asking.

        Raises: as that does. When the hand is lost, this thread does the rest.
        """
        try:
            refs = hand.cut(length, chunking)
        except HandLost:
            return store_span(hand.span[:length], chunking, self)
        missing = self.missing([ref.id for ref in refs], [ref.length for ref in refs]) if refs else ()
        new = [refs[at] for at in missing]
        with self._keeping(new) as claims:
            stored = self._seal_by(hand, new, claims, chunking.compression)
        with self._lock:
            self.stored_bytes += stored
        return StoredSpan(SpanMap.of(refs), length, len(new), sum(ref.length for ref in new))

    def _seal_by(self, hand: Hand, new: Sequence[ChunkRef], claims: Sequence[Claim], compression: Compression) -> int:
        """The stored bytes of chunks in a hand's span, sealed by it, or by this thread once it is lost."""
        done = stored = 0
        try:
            while done < len(new):
                added, size = self._store.packer.add_by(hand, new[done:], claims[done:], (compression, self._check))
                done, stored = done + added, stored + size
        except HandLost:
            packed = [compressed(hand.span, ref, compression) for ref in new[done:]]
            stored += self._store.packer.add(packed, Kind.CONTENT, claims[done:], self._check)
        return stored

    def put_metadata(self, kind: Kind, plain: bytes) -> ChunkId:
        """Store a leaf or a list page, unless it is there; its id."""
        chunk = ChunkId(blake3.blake3(plain, key=self._store.metadata_id_key).digest())
        with self._lock:
            wanted, relied = self._claim([chunk])
            if relied:  # not worth waiting for: its bytes would have to be kept here to make a broken promise good
                wanted, _ = self._claim([chunk], frozenset(relied.values()))
        if wanted:
            packed = zstandard.ZstdCompressor(level=3).compress(plain)
            codec, data = (Codec.ZSTD, packed) if len(packed) < len(plain) else (Codec.RAW, plain)
            self._put([CompressedChunk(chunk, codec, len(plain), data, memoryview(plain))], kind)
        return chunk

    def map_writer(self, size_bytes: int, cutter: str, base: DiskMap | None) -> DiskMapWriter:
        """A new disk map whose leaves go into this session."""
        key = self._store.metadata_id_key
        return DiskMapWriter(
            size_bytes, cutter, base, store=self.put_metadata, metadata_id_key=key, sound=self.is_sound
        )

    def _doubts(self) -> bool:
        return bool(self.sound_under or self._store.index.distrusted)

    def is_whole(self, base: DiskMap) -> bool:
        """Whether all that a map refers to is known to have been sound when it was made, and no damage came since."""
        return base.sound_under == self._store.damage_known()

    def is_sound(self, base: DiskMap, span: int) -> bool:
        """Whether a span's leaf and all it is a patch of have good copies; granted where no damage is known."""
        if not self._doubts():
            return True
        try:
            return all(self.readable(base.lineage(span)))
        except IntegrityError:
            return False

    def readable(self, chunks: Sequence[ChunkId]) -> list[bool]:
        """Which chunks have a copy that is there and not known to be damaged."""
        return self._store.index.readable(chunks)

    def settle(self, stop: threading.Event) -> frozenset[ChunkId]:
        """Wait until what this session put is durable; the chunks that others promised and did not deliver.

        The caller stores those again (`missing` now names them) and settles once more: they are named until they
        exist. Others' promises are waited for while any of them is being kept.
        Raises: what made one of this session's own packs fail; Stopped once `stop` is set; ValueError before all that
        `missing` named is put.
        """
        with self._lock:
            if self._promised:
                raise ValueError(f"{len(self._promised)} chunks that were asked about as missing were never put")
            own, relied, self._relied = set(self._own), self._relied, {}
        waiting = own | relied.keys()
        patience = _STALLED_S
        while waiting and patience > 0:
            self._store.packer.flush()
            next(iter(waiting)).wait(_LOOK_AGAIN_S)
            if stop.is_set():
                raise Stopped("the session was stopped before its end")
            settled = {claim for claim in waiting if claim.wait(0)}
            failed = next((claim.error for claim in settled & own if claim.error), None)
            if failed:
                raise failed
            waiting -= settled
            patience = _STALLED_S if settled or waiting & own else patience - _LOOK_AGAIN_S
        self._distrusted |= waiting
        # a kept promise is looked at, too: its pack may have been condemned before this session opened
        self._lost |= {chunk for chunks in relied.values() for chunk in chunks}
        self._lost = self._store.not_there(self._lost)
        return frozenset(self._lost)

    def commit(self, point: Manifest) -> Manifest:
        """Make everything durable: packs, index runs, then the point, last of all.

        Raises: SessionFenced when somebody has ended this session; NoSpace, Unavailable: nothing was committed.
        """
        if self.settle(threading.Event()):
            raise SessionFenced(
                "chunks that another session promised are missing: it failed", hint="run the backup again"
            )
        self._store.cover_new_packs()
        self._store.mark_distrusted()
        totals = point.totals | {"stored_bytes": self.stored_bytes}
        committed = replace(point, id=self.id, totals=totals, sound_under=self.sound_under)
        name = self._presence.point
        data = seal_json(self._keyring, ObjectType.POINT, name, to_json(committed))
        put_retrying(self._backend, name, data)
        if self._backend.get(name, PAYLOAD_LIMIT_BYTES) != data:
            raise SessionFenced(f"session {self.id} was ended by a collector", hint="run the backup again")
        if self.id in self._graveyard.read().swept_points:  # the tombstone that ended it was there, and was swept
            raise SessionFenced(f"session {self.id} was ended by a collector, long ago", hint="run the backup again")
        self._presence.end()
        return committed

    def abort(self) -> None:
        """End without a point; idempotent, and without effect after a commit."""
        if self._presence.ended:
            return
        error = SessionFenced(f"session {self.id} was aborted")
        with self._lock:
            promised, self._promised = list(self._promised.items()), {}
        self._store.claims.broken(promised, error)
        self._presence.entomb()

    def __enter__(self) -> "WriteSession":
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()
