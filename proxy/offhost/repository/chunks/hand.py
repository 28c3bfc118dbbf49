"""A process that opens and seals chunks for another one.

Owns: what is said over the socket, how the shared memory is laid out. Does not own: who asks (hands), what it means to
open or seal a chunk (packs). It reads and writes nothing but the memory it shares, and ends when the other process
does.
"""

import mmap
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import NamedTuple

from offhost.chunking.compress import Compression
from offhost.chunking.spans import SPAN_BYTES, Chunking, ChunkRef, compressed, identified
from offhost.errors import ChunkCorrupt, IntegrityError
from offhost.ids import ChunkId
from offhost.repository.chunks.packs import TAG_BYTES, CipherRecipe, Kind, Location, has_room

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

    recipe: CipherRecipe
    chunks: Sequence[Wanted]


class OpenJob(NamedTuple):
    """What lies on the tray: sealed chunks, one behind the other in this order, to be opened into the span."""

    parts: Sequence[Part]
    id_keys: dict[int, bytes]
    """By kind."""


class CutJob(NamedTuple):
    """The first bytes of the span are to be cut, and the pieces identified."""

    length: int
    chunking: Chunking


class SealJob(NamedTuple):
    """Chunks of the span are to be compressed and sealed onto the tray, as many as a pack has room for."""

    recipe: CipherRecipe
    size_bytes: int
    slot: int
    """The pack's, and its first free slot."""
    chunks: Sequence[ChunkRef]
    compression: Compression
    checked: int
    """Of so many slots one is opened again; of none, when it is 0."""


class Refused(NamedTuple):
    """A chunk did not read back when it was sealed; why."""

    message: str


class SharedMemory:
    """One span, and a tray."""

    def __init__(self, fd: int) -> None:
        memory = memoryview(mmap.mmap(fd, MEMORY_BYTES))
        self.span = memory[:SPAN_BYTES]
        self.tray = memory[SPAN_BYTES:]


def do(job: object, memory: SharedMemory) -> object:
    """The answer to a job."""
    match job:
        case OpenJob():
            return _opened(job, memory)
        case CutJob():
            return identified(memory.span[: job.length], job.chunking)
        case SealJob():
            return _sealed(job, memory)
    raise TypeError(f"no job: {job!r}")


def _sealed(job: SealJob, memory: SharedMemory) -> list[tuple[int, int]] | Refused:
    """The codec and size of each chunk that went onto the tray."""
    cipher = job.recipe.cipher()
    sealed: list[tuple[int, int]] = []
    at = 0
    for slot, ref in enumerate(job.chunks, job.slot):
        chunk = compressed(memory.span, ref, job.compression)
        if not has_room(job.size_bytes + at, slot, len(chunk.data)):
            break
        end = at + len(chunk.data) + TAG_BYTES
        cipher.seal_chunk(chunk, Kind.CONTENT, slot, memory.tray[at:end])
        if job.checked and slot % job.checked == 0:
            try:
                cipher.check_sealed(chunk, Kind.CONTENT, slot, memory.tray[at:end])
            except ChunkCorrupt as error:
                return Refused(str(error))
        sealed.append((int(chunk.codec), end - at))
        at = end
    return sealed


def _opened(job: OpenJob, memory: SharedMemory) -> list[int]:
    """Open a job's chunks into the span; the positions of those that fail a check, of which nothing is written."""
    failed = []
    position = start = 0
    for part in job.parts:
        cipher = part.recipe.cipher()
        for chunk, at, places in part.chunks:
            try:
                plain = cipher.open_chunk(chunk, at, memory.tray[start : start + at.stored], job.id_keys[at.kind])
                for place in places:
                    memory.span[place : place + at.plain] = plain
            except (IntegrityError, ValueError, KeyError):  # KeyError: of a kind that there is none of
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
