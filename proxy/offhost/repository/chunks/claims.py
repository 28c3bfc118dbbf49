"""Promises to store chunks, so that within a process no chunk is stored twice.

Owns: who has promised which chunk and whether the promise was kept. Does not own: packs, the index.
"""

import threading
from collections.abc import Callable, Iterable, Sequence

from offhost.errors import OffhostError
from offhost.ids import ChunkId


class Claim:
    """One session's promise of a batch of chunks. Thread-safe.

    Settled once: kept when every chunk of the batch is durable, broken by the first failure.
    """

    def __init__(self, count: int) -> None:
        self._lock = threading.Lock()
        self._left = count
        self._settled = threading.Event()
        self.error: OffhostError | None = None

    def stored(self) -> None:
        """One of the chunks is durable."""
        with self._lock:
            self._left -= 1
            if not self._left:
                self._settled.set()

    def broken(self, error: OffhostError) -> None:
        """A chunk will not be stored; without effect once settled."""
        with self._lock:
            if not self._settled.is_set():
                self.error = error
                self._settled.set()

    def wait(self, timeout_s: float) -> bool:
        """Wait until settled, or for so long; whether it is settled."""
        return self._settled.wait(timeout_s)

    @property
    def kept(self) -> bool:
        """Whether every chunk is durable by now."""
        return self._settled.is_set() and self.error is None


class ClaimTable:
    """The chunks that somebody in this process has promised and not yet stored. Thread-safe."""

    def __init__(self, exists: Callable[[Sequence[ChunkId]], Sequence[bool]]) -> None:
        """`exists` asks the index; it is called under this table's lock, so that no chunk slips in between."""
        self._exists = exists
        self._lock = threading.Lock()
        self._pending: dict[ChunkId, Claim] = {}

    def claim(
        self, ids: Sequence[ChunkId], distrusted: frozenset[Claim] = frozenset()
    ) -> tuple[list[int], Claim, dict[ChunkId, Claim]]:
        """What the caller must store, its promise, and which of the others' promises it relies on.

        `distrusted` promises, which broke or take too long, are taken over.
        """
        with self._lock:
            relied: dict[ChunkId, Claim] = {}
            wanted: dict[ChunkId, int] = {}
            for at, (chunk, there) in enumerate(zip(ids, self._exists(ids), strict=True)):
                if there or chunk in wanted:
                    continue
                other = self._pending.get(chunk)
                if other is None or other.error or other in distrusted:
                    wanted[chunk] = at
                else:
                    relied[chunk] = other
            claim = Claim(len(wanted))
            self._pending.update(dict.fromkeys(wanted, claim))
            return list(wanted.values()), claim, relied

    def stored(self, chunks: Iterable[tuple[ChunkId, Claim]], publish: Callable[[], None]) -> None:
        """These chunks are durable: `publish` puts them into the index before their promises go."""
        chunks = list(chunks)
        with self._lock:
            publish()
            self._drop(chunks)
        for _, claim in chunks:
            claim.stored()

    def broken(self, chunks: Iterable[tuple[ChunkId, Claim]], error: OffhostError) -> None:
        """These chunks will not be stored."""
        chunks = list(chunks)
        with self._lock:
            self._drop(chunks)
        for _, claim in chunks:
            claim.broken(error)

    def _drop(self, chunks: Iterable[tuple[ChunkId, Claim]]) -> None:
        for chunk, claim in chunks:
            if self._pending.get(chunk) is claim:
                del self._pending[chunk]
