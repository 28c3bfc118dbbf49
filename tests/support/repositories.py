"""Small repositories for tests: real ones, with a passphrase that is cheap to stretch."""

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from offhost.backup.copy import DiskCopy, map_of, settle
from offhost.blockio import check_range
from offhost.chunking.compress import Compression
from offhost.chunking.pages import PageCutter
from offhost.chunking.spans import Chunking
from offhost.chunking.workers import SpanWorkers
from offhost.extents import ExtentMap
from offhost.ids import DiskKey, VmId, image_id
from offhost.repository.keys.credentials import Passphrase
from offhost.repository.keys.wrappers import Argon2Cost
from offhost.repository.points.manifest import Manifest, PointDisk, Predecessor
from offhost.repository.points.restorepoint import PointDiskReader
from offhost.repository.repository import Repository, create
from offhost.repository.session import WriteSession

PASSPHRASE = Passphrase("correct horse")
CHEAP = Argon2Cost(time=1, memory_kib=8 << 10, lanes=1)


def make(root: Path, *, like: Repository | None = None) -> Path:
    """A new repository, which cuts disks as another does where one is given."""
    create(root, PASSPHRASE, cost=CHEAP, cut_secret=like.config.cut_secret if like else None)
    return root


class Memory:
    """A disk in memory, as ReadAt; counts what is read of it."""

    def __init__(self, content: bytes | bytearray) -> None:
        self.content = bytearray(content)
        self.read_bytes = 0

    @property
    def size_bytes(self) -> int:
        return len(self.content)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        check_range(offset, len(buffer), len(self.content))
        buffer[:] = self.content[offset : offset + len(buffer)]
        self.read_bytes += len(buffer)

    def allocated(self) -> ExtentMap:
        return ExtentMap.whole(len(self.content))

    def close(self) -> None:
        pass


def noise(seed: int, size_bytes: int) -> bytes:
    """Bytes that neither repeat nor compress."""
    return np.random.default_rng(seed).bytes(size_bytes)


def chunking_of(repository: Repository) -> Chunking:
    return Chunking(PageCutter(repository.config.cut_secret), repository.keyring.id_key, Compression())


def back_up(
    repository: Repository, disk: Memory, workers: SpanWorkers, *, name: str = "vm", areas: ExtentMap | None = None
) -> Manifest:
    """One point of a VM with one disk; by its changed areas where they are given."""
    with repository.session(image_id(name)) as (session, base):
        known = map_of(base, DiskKey("disk0"))
        copy = DiskCopy(disk, session, chunking_of(repository), workers, base=known, areas=areas)
        copy.run(threading.Event())
        before = repository.points.predecessor(base.manifest) if base else None
        sequence = base.manifest.sequence + 1 if base else 1
        disks = (PointDisk(DiskKey("disk0"), "disk", copy.finish()),)
        settle(session, [lambda: copy.run(threading.Event())], threading.Event())
        return session.commit(point_of(session, name, sequence=sequence, disks=disks, predecessor=before))


def point_of(
    session: WriteSession,
    name: str,
    *,
    sequence: int = 1,
    disks: tuple[PointDisk, ...] = (),
    predecessor: Predecessor | None = None,
) -> Manifest:
    return Manifest(
        id=session.id,
        vm_id=VmId(image_id(name)),
        vm_name=name,
        sequence=sequence,
        predecessor=predecessor,
        time=datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=sequence),
        kind="full",
        consistency="crash",
        disks=disks,
    )


def content(repository: Repository, point: Manifest) -> bytes:
    """The whole first disk of a point, read back."""
    disk = repository.restore_point(point).disk()
    buffer = bytearray(disk.size_bytes)
    disk.read_into(0, memoryview(buffer))
    return bytes(buffer)


def restored(disk: PointDiskReader, workers: SpanWorkers, *, spans: Iterable[int] | None = None) -> bytes:
    """A disk, or some spans of it, as a restore puts it together."""
    target = bytearray(disk.size_bytes)
    for part in disk.parts(range(len(disk.map)) if spans is None else spans, workers, threading.Event()):
        for span in part.spans:
            with part.pieces(span) as pieces:
                for at, data in pieces:
                    assert target.count(0, at, at + len(data)) == len(data), "no byte is written twice"
                    target[at : at + len(data)] = data
    return bytes(target)


@contextmanager
def opened(root: Path, cache: Path | None = None) -> Iterator[Repository]:
    with Repository.open(root, PASSPHRASE, cache=cache) as repository:
        yield repository
