"""Processes that open and seal chunks beside the threads of this one.

Owns: starting them where that is worth it, lending them out, doing without them. Does not own: what they do (hand).

Threads do not suffice. To open or seal a chunk takes four or five calls into libraries of some twenty microseconds
each. Each lets go of the interpreter's lock, and a thread that has to be woken to get it back has waited longer than it
worked: two threads restored no faster than one.
"""

import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

from offhost.chunking.spans import Chunking, ChunkRef
from offhost.errors import ChunkCorrupt
from offhost.repository.chunks.hand import (
    MEMORY_BYTES,
    TRAY_BYTES,
    CutJob,
    OpenJob,
    Part,
    Refused,
    SealJob,
    SharedMemory,
    Wanted,
)
from offhost.repository.chunks.packs import PackCipher

_log = logging.getLogger(__name__)

_WORTH_STARTING = 4
"""How often a hand must have been wanted: a process takes as long to start as a span or two take to store."""
_MOST = 8
_PATIENCE_S = 60.0


class HandLost(Exception):
    """A process has ended, or does not answer; it is gone now, and what it was doing must be done in another way."""


class Hand:
    """One process, with a tray for sealed chunks and a span for plain ones.

    For one thread at a time. Once lost, it writes no more into its memory, which can still be used.
    """

    def __init__(self) -> None:
        memory = os.memfd_create("offhost-hand", os.MFD_CLOEXEC)
        try:
            os.ftruncate(memory, MEMORY_BYTES)
            self._memory = SharedMemory(memory)
            ours, theirs = socket.socketpair()
            with theirs:
                self._conversation = Connection(ours.detach())
                program = f"from offhost.repository.chunks.hand import main; main({theirs.fileno()}, {memory})"
                # of a group of its own: Ctrl-C is for the process that asks, which may have something to end well
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-c", program],
                    pass_fds=(theirs.fileno(), memory),
                    stdin=subprocess.DEVNULL,
                    env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},  # of numpy's start, a third is threads for nothing
                    process_group=0,
                )
        finally:
            os.close(memory)
        self._greeted = self.lost = False
        self._parts: list[Part] = []
        self._filled = 0

    @property
    def span(self) -> memoryview:
        """The memory of one span."""
        return self._memory.span

    @property
    def tray(self) -> memoryview:
        """The memory of sealed chunks."""
        return self._memory.tray

    @property
    def ready(self) -> bool:
        """Whether it has begun to listen. Raises: HandLost."""
        if not self._greeted and self._conversation.poll():
            self._greeted = self._receive() == "ready"
        return self._greeted

    def lay(self, cipher: PackCipher, sealed: Iterable[memoryview], chunks: Sequence[Wanted]) -> bool:
        """Lay chunks of one pack on the tray; False, and none is, when there is no room for all."""
        end = self._filled + sum(wanted.at.stored for wanted in chunks)
        if end > TRAY_BYTES:
            return False
        for part in sealed:
            self._memory.tray[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
        self._parts.append(Part(cipher.recipe, chunks))
        return True

    def open(self, id_keys: dict[int, bytes]) -> frozenset[int]:
        """Have it open what lies on the tray; the positions there of chunks that failed a check. Raises: HandLost."""
        job = OpenJob(self._parts, id_keys)
        self.clear()
        failed: list[int] = self._done(job)
        return frozenset(failed)

    def cut(self, length: int, chunking: Chunking) -> list[ChunkRef]:
        """Have it cut the beginning of its span, and identify the pieces. Raises: HandLost."""
        chunks: list[ChunkRef] = self._done(CutJob(length, chunking))
        return chunks

    def seal(self, job: SealJob) -> list[tuple[int, int]]:
        """Have it seal chunks onto the tray; the codec and size of each that had room in the pack, in their order.

        Raises: ChunkCorrupt when one did not read back; HandLost.
        """
        sealed: list[tuple[int, int]] | Refused = self._done(job)
        if isinstance(sealed, Refused):
            raise ChunkCorrupt(sealed.message)
        return sealed

    def _done(self, job: object) -> Any:
        """The answer to a job."""
        try:
            self._conversation.send(job)
        except OSError as error:
            raise self._lost("its process has ended") from error
        return self._receive()

    def clear(self) -> None:
        """Take everything off the tray."""
        self._parts, self._filled = [], 0

    def _receive(self) -> Any:
        try:
            if not self._conversation.poll(_PATIENCE_S):
                raise self._lost(f"it has not answered for {_PATIENCE_S:.0f} s")
            return self._conversation.recv()
        except (EOFError, OSError) as error:
            raise self._lost("its process has ended") from error

    def _lost(self, why: str) -> HandLost:
        self.lost = True
        self.close()
        return HandLost(why)

    def close(self) -> None:
        """End the process, which knows of nothing that could be lost. Idempotent."""
        self._conversation.close()
        self._process.kill()
        self._process.wait()


class Hands:
    """The hands of one repository, one for each processor, from the time that it has much to read. Thread-safe."""

    def __init__(self, count: int | None = None, worth_starting: int = _WORTH_STARTING) -> None:
        self._count = min(max(os.cpu_count() or 1, 2), _MOST) if count is None else count
        self._worth_starting = worth_starting
        self._lock = threading.Lock()
        self._wanted = 0.0
        self._alive = self._scopes = 0
        self._free: list[Hand] = []

    def lend(self, work: float = 1) -> Hand | None:
        """A hand, to be given back; None while there is none. A span to be opened or sealed is a `work` of 1."""
        with self._lock:
            enough = self._wanted >= self._worth_starting
            self._wanted += work
            if not enough and self._wanted >= self._worth_starting:
                self._start()
            for hand in list(self._free):
                try:
                    if hand.ready:
                        self._free.remove(hand)
                        return hand
                except HandLost as error:
                    _log.info("a process to open chunks was lost, threads do without: %s", error)
                    self._free.remove(hand)
                    self._alive -= 1
            return None

    def _start(self) -> None:
        try:
            while self._alive < self._count:
                self._free.append(Hand())
                self._alive += 1
        except OSError as error:
            _log.info("no more processes to open chunks, so threads do it: %s", error)

    def give_back(self, hand: Hand) -> None:
        """Done with a hand, whatever it was given last."""
        hand.clear()
        with self._lock:
            if hand.lost:
                self._alive -= 1
            else:
                self._free.append(hand)

    @contextmanager
    def lent(self, work: float = 1) -> Iterator[Hand | None]:
        """A scope with a hand, or without while there is none."""
        hand = self.lend(work)
        try:
            yield hand
        finally:
            if hand:
                self.give_back(hand)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """A scope in which there may be much to do. When the last of them ends, so do the processes."""
        with self._lock:
            self._scopes += 1
        try:
            yield
        finally:
            with self._lock:
                self._scopes -= 1
                if not self._scopes:
                    self._rest()

    def _rest(self) -> None:
        """End the processes; others are started when there is much to do again. The lock is held."""
        while self._free:
            self._free.pop().close()
            self._alive -= 1
        self._wanted = 0

    def close(self) -> None:
        """End the processes that nobody has on loan."""
        with self._lock:
            self._rest()
