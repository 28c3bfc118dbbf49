"""Processes that open chunks beside the threads of this one.

Owns: starting them where that is worth it, lending them out, doing without them. Does not own: what they do (hand).

Threads do not suffice. To open a chunk takes four calls into libraries of some twenty microseconds each. Each lets go
of the interpreter's lock, and a thread that has to be woken to get it back has waited longer than it worked: two
threads restored no faster than one.
"""

import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence
from multiprocessing.connection import Connection

from offhost.repository.hand import MEMORY_BYTES, TRAY_BYTES, Job, Part, SharedMemory, Wanted
from offhost.repository.packs import PackCipher

_log = logging.getLogger(__name__)

_WORTH_STARTING = 8
"""How often a hand must have been wanted: a process takes as long to start as a few spans take to read."""
_MOST = 8
_PATIENCE_S = 60.0


class HandLost(Exception):
    """A process has ended, or does not answer; it is gone now, and what it was doing must be done in another way."""


class Hand:
    """One process, the tray it takes sealed chunks from, and the span that it opens them into.

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
                # of a group of its own: Ctrl-C is for the process that asks, which may have something to end well
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "offhost.repository.hand", str(theirs.fileno()), str(memory)],
                    pass_fds=(theirs.fileno(), memory),
                    stdin=subprocess.DEVNULL,
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
        self._parts.append(Part(cipher.header, cipher.repository_id, cipher.key, chunks))
        return True

    def open(self, id_keys: dict[int, bytes]) -> frozenset[int]:
        """Have it open what lies on the tray; the positions there of chunks that failed a check. Raises: HandLost."""
        job = Job(self._parts, id_keys)
        self.clear()
        try:
            self._conversation.send(job)
        except OSError as error:
            raise self._lost("its process has ended") from error
        failed = self._receive()
        if not isinstance(failed, list):
            raise self._lost(f"it says {failed!r}")
        return frozenset(failed)

    def clear(self) -> None:
        """Take everything off the tray."""
        self._parts, self._filled = [], 0

    def _receive(self) -> object:
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
        self._wanted = self._alive = 0
        self._free: list[Hand] = []

    def lend(self) -> Hand | None:
        """A hand, to be given back; None while there is none."""
        with self._lock:
            self._wanted += 1
            if self._wanted == self._worth_starting:
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

    def rest(self) -> None:
        """End the processes that are not lent; when there is much to read again, others are started."""
        with self._lock:
            while self._free:
                self._free.pop().close()
                self._alive -= 1
            self._wanted = 0
