"""A process that opens chunks for another one: `python -m offhost.repository.hand SOCKET MEMORY`.

Owns: what is said over the socket, how the shared memory is laid out. Does not own: who asks (hands), what opening a
chunk means (packs). It reads and writes nothing but the memory it shares, and ends when the other process does.
"""

import mmap
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import NamedTuple

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from offhost.chunking.spans import SPAN_BYTES
from offhost.errors import IntegrityError
from offhost.ids import ChunkId
from offhost.repository.packs import Location, PackCipher

TRAY_BYTES = SPAN_BYTES + (4 << 20)
"""All chunks of a span fit on it, should none of them be compressed."""
MEMORY_BYTES = SPAN_BYTES + TRAY_BYTES


class Wanted(NamedTuple):
    """A chunk, and where in the span its plain bytes belong: nowhere, when it is only to be checked."""

    chunk: ChunkId
    at: Location
    places: Sequence[int] = ()


class Part(NamedTuple):
    """Chunks of one pack, and what opens them."""

    header: bytes
    repository_id: bytes
    pack_key: bytes
    chunks: Sequence[Wanted]


class Job(NamedTuple):
    """What lies on the tray: sealed chunks, one behind the other in this order."""

    parts: Sequence[Part]
    id_keys: dict[int, bytes]
    """By kind."""


class SharedMemory:
    """One span, and a tray."""

    def __init__(self, fd: int) -> None:
        memory = memoryview(mmap.mmap(fd, MEMORY_BYTES))
        self.span = memory[:SPAN_BYTES]
        self.tray = memory[SPAN_BYTES:]


def do(job: Job, memory: SharedMemory) -> list[int]:
    """Open a job's chunks into the span; the positions of those that fail a check, of which nothing is written."""
    failed = []
    position = start = 0
    for part in job.parts:
        cipher = PackCipher(part.header, part.repository_id, part.pack_key, AESGCM(part.pack_key))
        for chunk, at, places in part.chunks:
            try:
                plain = cipher.open_chunk(chunk, at, memory.tray[start : start + at.stored], job.id_keys[at.kind])
                for place in places:
                    memory.span[place : place + at.plain] = plain
            except (IntegrityError, ValueError):
                failed.append(position)
            position, start = position + 1, start + at.stored
    return failed


def main(socket: int, memory: int) -> None:
    """Answer each job with what failed of it, until the other side is gone."""
    asked, shared = Connection(socket), SharedMemory(memory)
    try:
        asked.send("ready")
        while True:
            asked.send(do(asked.recv(), shared))
    except (EOFError, OSError):
        return


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
