"""Sealing of chunks into packs, and their way to the backend.

Owns: the packs being filled and put, the bound on their memory, the write check.
Does not own: the layout of a pack (packs), which chunks are missing (claims), where objects lie (backend).
"""

import logging
import mmap
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from offhost.backend.contract import Backend
from offhost.chunking.compress import Compression
from offhost.chunking.spans import ChunkRef, CompressedChunk
from offhost.clock import Clock, SystemClock
from offhost.errors import BackendError, ChunkCorrupt, OffhostError, Unavailable
from offhost.ids import ChunkId
from offhost.repository.chunks.claims import Claim, ClaimTable
from offhost.repository.chunks.hand import SealJob
from offhost.repository.chunks.hands import Hand, HandLost
from offhost.repository.chunks.index import Index
from offhost.repository.chunks.packs import Entries, Kind, OpenPack, pack_buffer, pack_object
from offhost.repository.keys.keyring import Keyring
from offhost.repository.objects.putting import put_retrying

_log = logging.getLogger(__name__)

WriteCheck = Literal["full", "sample", "off"]

_CHECKED: dict[WriteCheck, int] = {"full": 1, "sample": 16, "off": 0}
"""Of how many chunks one is checked."""
_BUFFERS = 4
_PUTTERS = 2
_LOOK_AGAIN_S = 0.5

PUT_PATIENCE_S = 300.0
"""How long a pack may take to arrive: 64 MiB at a fifth of a MiB a second."""


@dataclass(slots=True, eq=False)
class _Filling:
    """A pack being filled, with the promises that rest on it."""

    pack: OpenPack
    chunks: list[tuple[ChunkId, Claim]] = field(default_factory=list)
    close_soon: bool = False
    put_since: float = 0.0
    given_up: bool = False


class Packer:
    """Fills packs and puts them: one for the process, shared by all sessions of a repository.

    Thread-safe. Holds at most `_BUFFERS` packs in memory, filling or being put; `add` blocks while all are taken. A
    chunk counts as stored only when its claim is kept; when a put fails, every claim on that pack is broken. A put that
    does not return is given up after PUT_PATIENCE_S: its claims are broken, another thread takes the place of the one
    that hangs, and only its memory stays taken until it returns. So nobody waits for ever, on whatever hangs.
    """

    def __init__(self, backend: Backend, keyring: Keyring, index: Index, claims: ClaimTable) -> None:
        self._backend, self._keyring, self._index, self._claims = backend, keyring, index, claims
        self._clock: Clock = SystemClock()  # whether a put hangs is a matter of the machine's own time
        metadata = keyring.metadata_id_key()
        self._id_keys: dict[int, bytes] = {Kind.CONTENT: keyring.id_key, Kind.LEAF: metadata, Kind.PAGE: metadata}
        self._changed = threading.Condition()
        self._idle: list[_Filling] = []
        self._leases: set[_Filling] = set()
        self._full: deque[_Filling] = deque()
        self._putting: set[_Filling] = set()
        self._putters = 0
        self._given_up = 0
        self._buffers: list[mmap.mmap] = []
        self._buffers_left = _BUFFERS
        self._unindexed: dict[str, Entries] = {}

    def add(self, chunks: Sequence[CompressedChunk], kind: Kind, claims: Sequence[Claim], check: WriteCheck) -> int:
        """Seal chunks, each with its claim, into a pack, or what is left into the next; their stored bytes.

        Raises: ChunkCorrupt when one does not read back: a fault that may have hit its neighbours too, so that each
        of them is opened again, and when one does not the whole pack is dropped and every claim on it broken;
        Unavailable when as many puts hang as packs may be held.
        """
        left = deque(zip(chunks, claims, strict=True))
        stored = 0
        while left:
            filling = self._lease(len(left[0][0].data))
            try:
                stored += _fill(filling, left, kind, check)
            except BaseException as error:
                self._save_the_rest(filling, error)
                raise
            self._give_back(filling)
        return stored

    def add_by(
        self, hand: Hand, chunks: Sequence[ChunkRef], claims: Sequence[Claim], how: tuple[Compression, WriteCheck]
    ) -> tuple[int, int]:
        """Have a hand seal content that lies in its span, as many of the chunks as one pack has room for.

        How many that were, one at least, and their stored bytes. Raises: as `add`; HandLost: none was added.
        """
        filling = self._lease(chunks[0].length)
        pack, (compression, check) = filling.pack, how
        try:
            job = SealJob(pack.cipher.recipe, pack.size_bytes, len(pack), chunks, compression, _CHECKED[check])
            sealed = hand.seal(job)
        except HandLost:
            self._retire(filling)
            raise
        except BaseException as error:
            filling.chunks.append((chunks[0].id, claims[0]))
            self._save_the_rest(filling, error)
            raise
        added = chunks[: len(sealed)]
        pack.adopt(added, Kind.CONTENT, sealed, hand.tray)
        filling.chunks += [(chunk.id, claim) for chunk, claim in zip(added, claims[: len(added)], strict=True)]
        self._give_back(filling)
        return len(added), sum(stored for _, stored in sealed)

    def _retire(self, filling: _Filling) -> None:
        """Nobody knows which slots were used last, so that nothing more goes into this pack."""
        filling.pack.withdraw_behind(len(filling.pack))
        with self._changed:
            self._leases.remove(filling)
            if len(filling.pack):
                self._put_later(filling)
            else:
                self._free(filling)

    def _save_the_rest(self, filling: _Filling, error: BaseException) -> None:
        """One chunk could not be sealed: let go of it, and of its neighbours only when they are hit, too."""
        known = error if isinstance(error, OffhostError) else BackendError(f"sealing a chunk failed: {error!r}")
        good = 0
        try:
            filling.pack.withdraw_behind(max(0, len(filling.chunks) - 1))
            filling.pack.check_all(self._id_keys)
            good = len(filling.pack)
        except ChunkCorrupt as worse:
            _log.warning("a pack is dropped: %s", worse)
        finally:
            self._claims.broken(filling.chunks[good:], known)
            del filling.chunks[good:]
            with self._changed:
                self._leases.remove(filling)
                if good:
                    self._put_later(filling)  # nothing more goes into it: a slot is not used twice
                else:
                    self._free(filling)

    def _free(self, filling: _Filling) -> None:
        self._buffers.append(filling.pack.buffer)
        self._buffers_left += 1
        self._changed.notify_all()

    def _lease(self, data_bytes: int) -> _Filling:
        """A pack with room, for this thread alone until it is given back."""
        while True:
            self._give_up_stalled()
            with self._changed:
                if filling := self._with_room(data_bytes):
                    self._leases.add(filling)
                    return filling
                if self._given_up == _BUFFERS:
                    raise Unavailable(
                        f"{self._backend.location}: {_BUFFERS} packs were to be stored and do not arrive",
                        hint="look at the disk or network that the repository lies on",
                    )
                self._changed.wait(_LOOK_AGAIN_S)

    def _with_room(self, data_bytes: int) -> _Filling | None:
        while self._idle:
            filling = self._idle.pop()
            if filling.pack.fits(data_bytes):
                return filling
            self._put_later(filling)
        if not self._buffers_left:
            return None
        self._buffers_left -= 1
        buffer = self._buffers.pop() if self._buffers else pack_buffer()
        return _Filling(OpenPack(self._keyring, buffer))

    def _give_back(self, filling: _Filling) -> None:
        with self._changed:
            self._leases.remove(filling)
            if filling.close_soon:
                self._put_later(filling)
            else:
                self._idle.append(filling)
            self._changed.notify_all()

    # -------------------------------------------------------------------------------------------- putting

    def _put_later(self, filling: _Filling) -> None:
        """The caller holds `_changed`, here and where threads are started."""
        self._full.append(filling)
        self._start_putter()

    def _start_putter(self) -> None:
        if self._full and self._putters < _PUTTERS:
            self._putters += 1
            # no thread of a pool: the end of the process would wait for one that hangs
            threading.Thread(target=self._put_full, name="put-pack", daemon=True).start()

    def _put_full(self) -> None:
        """Put packs until there is none left, or another thread has taken this one's place."""
        replaced = False
        try:
            while not replaced and (filling := self._next_full()):
                try:
                    self._put(filling)
                finally:
                    replaced = self._done_with(filling)
                self._index.tidy()
        finally:
            with self._changed:
                self._putters -= not replaced
                self._start_putter()
                self._changed.notify_all()

    def _next_full(self) -> _Filling | None:
        with self._changed:
            if not self._full:
                return None
            filling = self._full.popleft()
            filling.put_since = self._clock.monotonic()
            self._putting.add(filling)
            return filling

    def _done_with(self, filling: _Filling) -> bool:
        """Its memory is free again; whether it was given up meanwhile."""
        with self._changed:
            self._putting.discard(filling)
            self._given_up -= filling.given_up
            self._free(filling)
            return filling.given_up

    def _put(self, filling: _Filling) -> None:
        try:
            name, entries = filling.pack.close()
            with memoryview(filling.pack.buffer) as view:
                put_retrying(self._backend, pack_object(name), view[: filling.pack.size_bytes])
            with self._changed:
                self._unindexed[name] = entries
            self._claims.stored(filling.chunks, lambda: self._index.add(name, entries))
        except OffhostError as error:
            self._claims.broken(filling.chunks, error)
        except Exception as error:  # noqa: BLE001 - whatever it is, who waits for these chunks must be told
            _log.exception("putting a pack failed")
            self._claims.broken(filling.chunks, BackendError(f"putting a pack failed: {error!r}"))

    def _give_up_stalled(self) -> None:
        """Wait no more for puts that take too long. What they put counts when they return after all."""
        with self._changed:
            limit = self._clock.monotonic() - PUT_PATIENCE_S
            stalled = [filling for filling in self._putting if filling.put_since < limit]
            for filling in stalled:
                filling.given_up = True
                self._putting.remove(filling)
                self._given_up += 1
                self._putters -= 1
                self._start_putter()
        for filling in stalled:
            error = Unavailable(
                f"{self._backend.location}: a pack of {filling.pack.size_bytes >> 20} MiB did not arrive within "
                f"{PUT_PATIENCE_S:.0f} seconds",
                hint="look at the disk or network that the repository lies on",
            )
            _log.warning("%s", error)
            self._claims.broken(filling.chunks, error)

    def flush(self) -> None:
        """Send every pack that holds something on its way. The claims say when, and whether, they have arrived."""
        self._give_up_stalled()
        with self._changed:
            for filling in self._leases:
                filling.close_soon = True
            while self._idle:
                self._put_later(self._idle.pop())

    def take_unindexed(self) -> dict[str, Entries]:
        """The durable packs that no index run covers yet; the caller covers them, or gives them back."""
        with self._changed:
            packs, self._unindexed = self._unindexed, {}
            return packs

    def give_back_unindexed(self, packs: dict[str, Entries]) -> None:
        """The caller could not cover these."""
        with self._changed:
            self._unindexed.update(packs)

    def close(self) -> None:
        """Wait for what is on its way, but for puts that hang, and let go of the memory."""
        while True:
            self.flush()
            with self._changed:
                if not self._full and not self._putting:
                    self._buffers.clear()
                    return
                self._changed.wait(_LOOK_AGAIN_S)


def _fill(filling: _Filling, left: deque[tuple[CompressedChunk, Claim]], kind: Kind, check: WriteCheck) -> int:
    """Move what a pack has room for from `left` into it; its stored bytes."""
    pack = filling.pack
    before = pack.size_bytes
    while left and pack.fits(len(left[0][0].data)):
        chunk, claim = left.popleft()
        filling.chunks.append((chunk.id, claim))
        pack.add(chunk, kind)
        if (every := _CHECKED[check]) and (len(pack) - 1) % every == 0:
            pack.check_last(chunk, kind)
    return pack.size_bytes - before
