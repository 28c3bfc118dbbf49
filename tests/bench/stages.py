"""How near offhost comes to the sum of its stages: each of them alone, and all of them together, in one process.

Owns: what counts as a stage, measured with the libraries themselves and nothing around them. Does not own: the report.
A stage's cost is processor seconds of one thread over the whole disk; on all cores the stages together could at best
take their sum divided by the number of cores. What offhost takes is wall time, without starting up, and without
writing: packs and restored disks are dropped where they would be written.
"""

import argparse
import json
import os
import tempfile
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter, thread_time
from typing import TypeVar
from unittest.mock import patch

import lz4.block
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from bench.disks import SPAN_BYTES
from offhost.backend.local import LocalBackend
from offhost.backup.destination import Destination
from offhost.backup.image import ImageBackup, ImageFiles
from offhost.blockio import FileReadAt
from offhost.chunking.compress import decompress
from offhost.chunking.pages import PageCutter
from offhost.chunking.spans import CompressedChunk, span_buffer
from offhost.chunking.workers import SpanWorkers, touched_spans
from offhost.clock import SystemClock
from offhost.repository.chunks.packs import HEADER_BYTES, Kind, Location, pack_object, read_directory, read_header
from offhost.repository.keys.credentials import Passphrase
from offhost.repository.repository import Repository, create
from offhost.repository.verification.verify import verify
from offhost.transport.copying import copy_out

WRITE_STAGES = ("read", "zero scan and cut", "hash", "compress", "seal", "check")
SCAN_STAGES = WRITE_STAGES[:3]
READ_STAGES = ("fetch", "open", "decompress", "hash back")

KEY = bytes(range(32))
NONCE = bytes(12)
ASSOCIATED = bytes(100)
SECRET = Passphrase("for a throw-away repository of public disks")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Together:
    """What offhost took for a task, and what its stages took alone."""

    task: str
    wall_s: float
    cpu_s: float
    alone_s: dict[str, float]

    @property
    def share(self) -> float:
        """Of the speed that the stages alone would allow on all cores, how much was reached."""
        return sum(self.alone_s.values()) / (os.cpu_count() or 1) / self.wall_s


class Stages:
    """Adds up the processor seconds of stages, in the one thread that runs them."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def time(self, stage: str, work: Callable[..., T], *arguments: object) -> T:
        """Do `work` as part of a stage."""
        started = thread_time()
        done = work(*arguments)
        self.seconds[stage] += thread_time() - started
        return done

    def of(self, names: tuple[str, ...]) -> dict[str, float]:
        """The seconds of some stages."""
        return {name: self.seconds[name] for name in names}


def time_write_stages(disk: Path, stages: Stages) -> None:
    """Every stage of a first full, span after span; a chunk that was there before is only read, cut and hashed."""
    source, cutter, buffer = FileReadAt.open(disk), PageCutter(KEY), span_buffer()
    seen: set[bytes] = set()
    for span in touched_spans(source.allocated()):
        data = buffer[: min(SPAN_BYTES, source.size_bytes - span * SPAN_BYTES)]
        stages.time("read", source.read_into, span * SPAN_BYTES, data)
        pieces = stages.time("zero scan and cut", cutter.cut, data)
        chunks = [data[start : start + length] for start, length in pieces]
        ids = stages.time("hash", _hashes, chunks)
        first = {one: chunk for one, chunk in zip(ids, chunks, strict=True) if one not in seen}
        seen.update(first)
        _time_sealing(list(first.values()), stages)
    source.close()


def _hashes(chunks: Sequence[memoryview]) -> list[bytes]:
    return [blake3(chunk, key=KEY).digest() for chunk in chunks]


def _time_sealing(chunks: list[memoryview], stages: Stages) -> None:
    cipher, pack, check = AESGCM(KEY), bytearray(SPAN_BYTES + len(chunks) * 16), bytearray(SPAN_BYTES)
    packed = stages.time("compress", lambda: [lz4.block.compress(chunk, store_size=False) for chunk in chunks])
    stored = [
        small if len(small) < len(chunk) * 15 / 16 else chunk for small, chunk in zip(packed, chunks, strict=True)
    ]

    def seal() -> list[tuple[int, int]]:
        places, at = [], 0
        for data in stored:
            end = at + len(data) + 16
            cipher.encrypt_into(NONCE, data, ASSOCIATED, memoryview(pack)[at:end])
            places.append((at, end))
            at = end
        blake3(memoryview(pack)[:at]).digest()  # the pack's name
        return places

    def read_back(places: list[tuple[int, int]]) -> None:
        for (start, end), data, chunk in zip(places, stored, chunks, strict=True):
            opened = memoryview(check)[: end - start - 16]
            cipher.decrypt_into(NONCE, memoryview(pack)[start:end], ASSOCIATED, opened)
            plain = bytearray(opened) if data is chunk else _expand(opened, len(chunk))
            assert plain == chunk

    places = stages.time("seal", seal)
    stages.time("check", lambda: read_back(places))


def _expand(packed: memoryview | bytes, plain_bytes: int) -> bytearray:
    plain: bytearray = lz4.block.decompress(packed, uncompressed_size=plain_bytes, return_bytearray=True)
    return plain


def time_read_stages(repository: Repository, stages: Stages) -> None:
    """Every stage of reading all packs, pack after pack."""
    keyring, backend = repository.keyring, repository.backend
    for pack in repository.store.index.packs:
        entries, cipher = read_directory(backend, keyring, pack), read_header(backend, keyring, pack)
        size = HEADER_BYTES + int(entries["stored"].sum())
        content = memoryview(stages.time("fetch", backend.get_range, pack_object(pack), 0, size))
        chunks = []
        for identity, _, *place in entries.tolist():
            at = Location(pack, *place)
            key = repository.reader.id_key(Kind(at.kind))
            chunks.append(cipher.unpack_chunk(identity, at, content[at.offset : at.offset + at.stored], key))
        _time_unsealing(chunks, stages)


def _time_unsealing(chunks: list[CompressedChunk], stages: Stages) -> None:
    cipher = AESGCM(KEY)
    sealed = [cipher.encrypt(NONCE, chunk.data, ASSOCIATED) for chunk in chunks]
    stages.time("open", lambda: [cipher.decrypt(NONCE, data, ASSOCIATED) for data in sealed])
    stages.time("decompress", lambda: [decompress(chunk.codec, chunk.data, chunk.plain_bytes) for chunk in chunks])
    stages.time("hash back", _hashes, [chunk.plain for chunk in chunks])


class Dropped:
    """A disk that keeps nothing of what is written to it."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes

    def write_at(self, offset: int, data: bytes | memoryview) -> None:
        """Keep nothing."""

    def sync(self) -> None:
        """Nothing to make durable."""

    def close(self) -> None:
        """Nothing is held."""


@contextmanager
def packs_dropped() -> Iterator[None]:
    """A scope in which packs are not written: nothing that it stores can be read back."""
    put = LocalBackend.put

    def keep_others(self: LocalBackend, name: str, data: bytes | bytearray | memoryview) -> None:
        if not name.startswith("packs/"):
            put(self, name, data)

    with patch.object(LocalBackend, "put", keep_others):
        yield


def measured(task: str, alone_s: dict[str, float], work: Callable[[], object]) -> Together:
    """Do a whole task, its threads and all, and set it beside its stages."""
    before, started = os.times(), perf_counter()
    work()
    wall_s, after = perf_counter() - started, os.times()
    cpu_s = sum(now - then for now, then in zip(after[:4], before[:4], strict=True))
    return Together(task, wall_s, cpu_s, alone_s)


def _back_up(repository: Repository, disk: Path) -> None:
    with SpanWorkers() as workers:
        destination = Destination(repository, workers)
        backup = ImageBackup(destination, SystemClock(), lambda *_: None, threading.Event())
        backup.run(ImageFiles("vm", [disk]))


def _restore(repository: Repository) -> None:
    with SpanWorkers() as workers, repository.reading(repository.points.all()[0]) as point:
        source = point.disk()
        copy_out(source, Dropped(source.size_bytes), workers, lambda _: None)


def measure(disk: Path, work: Path) -> list[Together]:
    """All tasks over one disk, which comes from the page cache."""
    stages = Stages()
    FileReadAt.open(disk).close()
    time_write_stages(disk, Stages())  # once for the page cache and the processor's clock
    time_write_stages(disk, stages)
    create(work / "dropped", SECRET)
    create(work / "kept", SECRET)
    with packs_dropped(), Repository.open(work / "dropped", SECRET) as repository:
        full = measured("first full", stages.of(WRITE_STAGES), lambda: _back_up(repository, disk))
    with Repository.open(work / "kept", SECRET) as repository:
        _back_up(repository, disk)
        time_read_stages(repository, stages)
        scan, back = stages.of(SCAN_STAGES), stages.of(READ_STAGES)
        return [
            full,
            measured("unchanged scan", scan, lambda: _back_up(repository, disk)),
            measured("restore", back, lambda: _restore(repository)),
            measured("verify --data", back, lambda: verify(repository, data=True, stop=threading.Event())),
        ]


def table(results: Sequence[Together]) -> list[str]:
    """The figures as lines of a table."""
    cores = os.cpu_count() or 1
    lines = [
        f"| | stages alone, CPU | on {cores} cores at best | offhost | reached | of its CPU |",
        "|---|---|---|---|---|---|",
    ]
    for each in results:
        alone = sum(each.alone_s.values())
        named = ", ".join(f"{name} {seconds:.2f}" for name, seconds in each.alone_s.items())
        lines.append(
            f"| {each.task} | {alone:.2f} s: {named} | {alone / cores:.2f} s | {each.wall_s:.2f} s "
            f"({each.cpu_s:.1f} CPU) | **{each.share:.0%}** | {alone / each.cpu_s:.0%} |"
        )
    return lines


def main() -> None:
    """DISK: print a table; with --json the figures, for the report."""
    parser = argparse.ArgumentParser(prog="python -m bench.stages", description=__doc__)
    parser.add_argument("disk", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="where throw-away repositories are written")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="stages-", dir=arguments.work) as work:
        results = measure(arguments.disk, Path(work))
    print(json.dumps([asdict(each) for each in results]) if arguments.json else "\n".join(table(results)))


if __name__ == "__main__":
    main()
