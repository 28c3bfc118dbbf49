"""Sealing of chunks into packs, and their way to the backend.

Owns: the packs being filled and put, the bound on their memory, the write check.
Does not own: the layout of a pack (packs), which chunks are missing (claims), where objects lie (backend).
"""

import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal

from offhost.backend.contract import Backend
from offhost.chunking.spans import CompressedChunk
from offhost.errors import BackendError, ObjectExists, OffhostError
from offhost.ids import ChunkId
from offhost.repository.claims import Claim, ClaimTable
from offhost.repository.index import Index
from offhost.repository.keys import Keyring
from offhost.repository.packs import PACK_LIMIT_BYTES, Entries, Kind, OpenPack, pack_object

WriteCheck = Literal["full", "sample", "off"]

_SAMPLE_EVERY = 16
_BUFFERS = 4
_PUTTERS = 2
_ATTEMPTS = 3


@dataclass(slots=True)
class _Filling:
    """A pack being filled, with the promises that rest on it."""

    pack: OpenPack
    chunks: list[tuple[ChunkId, Claim]] = field(default_factory=list)
    close_soon: bool = False


class Packer:
    """Fills packs and puts them: one for the process, shared by all sessions of a repository.

    Thread-safe. Holds at most `_BUFFERS` packs in memory, filling or being put; `add` blocks while all are taken. A
    chunk counts as stored only when its claim is kept; when a put fails, every claim on that pack is broken.
    """

    def __init__(self, backend: Backend, keyring: Keyring, index: Index, claims: ClaimTable) -> None:
        self._backend, self._keyring, self._index, self._claims = backend, keyring, index, claims
        self._changed = threading.Condition()
        self._idle: list[_Filling] = []
        self._leases: dict[int, _Filling] = {}
        self._buffers: list[bytearray] = []
        self._buffers_left = _BUFFERS
        self._executor = ThreadPoolExecutor(_PUTTERS, thread_name_prefix="put-pack")
        self._unindexed: dict[str, Entries] = {}

    def add(self, chunks: Sequence[CompressedChunk], kind: Kind, claims: Sequence[Claim], check: WriteCheck) -> int:
        """Seal chunks, each with its claim, into a pack, or what is left into the next; their stored bytes.

        Raises: ChunkCorrupt when one does not read back: a fault that may have hit its neighbours too, so that the
        whole pack is dropped and every claim on it broken.
        """
        left = deque(zip(chunks, claims, strict=True))
        stored = 0
        while left:
            filling = self._lease(len(left[0][0].data))
            try:
                stored += _fill(filling, left, kind, check)
            except BaseException as error:
                self._drop(filling, error)
                raise
            self._give_back(filling)
        return stored

    def _drop(self, filling: _Filling, error: BaseException) -> None:
        known = error if isinstance(error, OffhostError) else BackendError(f"sealing a chunk failed: {error!r}")
        self._claims.broken(filling.chunks, known)
        with self._changed:
            del self._leases[id(filling)]
            self._free(filling)

    def _free(self, filling: _Filling) -> None:
        self._buffers.append(filling.pack.buffer)
        self._buffers_left += 1
        self._changed.notify_all()

    def _lease(self, data_bytes: int) -> _Filling:
        """A pack with room, for this thread alone until it is given back."""
        with self._changed:
            while (filling := self._with_room(data_bytes)) is None:
                self._changed.wait()
            self._leases[id(filling)] = filling
            return filling

    def _with_room(self, data_bytes: int) -> _Filling | None:
        while self._idle:
            filling = self._idle.pop()
            if filling.pack.fits(data_bytes):
                return filling
            self._put_later(filling)
        if not self._buffers_left:
            return None
        self._buffers_left -= 1
        buffer = self._buffers.pop() if self._buffers else bytearray(PACK_LIMIT_BYTES)
        return _Filling(OpenPack(self._keyring, buffer))

    def _give_back(self, filling: _Filling) -> None:
        with self._changed:
            del self._leases[id(filling)]
            if filling.close_soon:
                self._put_later(filling)
            else:
                self._idle.append(filling)
            self._changed.notify_all()

    def _put_later(self, filling: _Filling) -> None:
        self._executor.submit(self._put, filling)

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
        except BaseException as error:
            self._claims.broken(filling.chunks, BackendError(f"putting a pack failed: {error!r}"))
            raise
        finally:
            with self._changed:
                self._free(filling)

    def flush(self) -> None:
        """Send every pack that holds something on its way. The claims say when, and whether, they have arrived."""
        with self._changed:
            for filling in self._leases.values():
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
        """Wait for what is on its way."""
        self.flush()
        self._executor.shutdown()


def _fill(filling: _Filling, left: deque[tuple[CompressedChunk, Claim]], kind: Kind, check: WriteCheck) -> int:
    """Move what a pack has room for from `left` into it; its stored bytes."""
    pack = filling.pack
    before = pack.size_bytes
    while left and pack.fits(len(left[0][0].data)):
        chunk, claim = left.popleft()
        filling.chunks.append((chunk.id, claim))
        pack.add(chunk, kind)
        if check == "full" or (check == "sample" and len(pack) % _SAMPLE_EVERY == 1):
            pack.check_last(chunk.plain)
    return pack.size_bytes - before


def put_retrying(backend: Backend, name: str, data: bytes | memoryview) -> None:
    """Put an object whose name is its alone; one that is there already was put by an attempt whose reply was lost.

    Each attempt writes all bytes anew. Raises: what the last attempt raised.
    """
    for attempt in range(_ATTEMPTS):
        try:
            backend.put(name, data)
            break
        except ObjectExists:
            break
        except OffhostError as error:
            if not error.retry or attempt == _ATTEMPTS - 1:
                raise
