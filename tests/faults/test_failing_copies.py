"""A store that fails while points are copied, at either end, at its k-th call for every k: no point at the destination
is ever wrong, none is there twice, and the next copy completes.
"""

import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from faults.campaign import Tally, some
from offhost.backend.contract import Backend
from offhost.backend.local import LocalBackend
from offhost.chunking.workers import SpanWorkers
from offhost.errors import OffhostError
from offhost.extents import Extent, ExtentMap
from offhost.repository.keys.keyring import Keyring
from offhost.repository.repository import Repository
from offhost.repository.verification.verify import verify
from support.faulty_backend import HOWS, Fault, FaultyBackend, How
from support.replicas import copy_all, replicating, replication
from support.repositories import Memory, back_up, content, make, noise, opened

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

DISK_BYTES = 300_000
End = Literal["source", "destination"]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two repositories below a folder: the first has three points of a VM, the second a copy of the first."""

    folder: Path
    keyrings: dict[End, Keyring]
    disks: list[bytes]
    workers: SpanWorkers

    def root(self, end: End) -> Path:
        return self.folder / end

    @contextmanager
    def on(self, end: End, backend: Backend) -> Iterator[Repository]:
        """One of them opened over a backend that may fail; closing it never does."""
        repository = Repository(backend, self.keyrings[end])
        try:
            repository.refresh()
            yield repository
        finally:
            repository.close()

    def attempt(self, failing: End, backend: Backend) -> None:
        """Copy what is to be copied, while one end fails. It may end in an error that offhost declares, in no other."""
        other: End = "destination" if failing == "source" else "source"
        with suppress(OffhostError), opened(self.root(other)) as sound, self.on(failing, backend) as faulty:
            source, destination = (faulty, sound) if failing == "source" else (sound, faulty)
            copy_all(replication(source, destination, self.workers))

    def assert_unharmed(self) -> None:
        """Every point that is there is right; the next copy brings the others; nothing is damaged."""
        with opened(self.root("destination")) as there:
            assert {content(there, point) for point in there.points.all()} <= set(self.disks)
        with replicating(self.root("source"), self.root("destination"), self.workers) as copier:
            copy_all(copier)
            there = copier.destination.repository
            assert [content(there, point) for point in there.points.all()] == self.disks
            assert verify(there, data=True, stop=threading.Event()).damage == []


@pytest.fixture(scope="session")
def pair(fast_folder: Path, workers: SpanWorkers) -> Pair:
    """What each fault finds: to be copied, never changed."""
    folder = fast_folder / "pair"
    with opened(make(folder / "source")) as source, opened(make(folder / "destination")) as destination:
        disk = Memory(noise(1, DISK_BYTES))
        disks = [bytes(disk.content)]
        back_up(source, disk, workers)
        copy_all(replication(source, destination, workers))
        for seed in (2, 3):
            disk.content[seed * 50_000 : seed * 50_000 + 40_000] = noise(seed, 40_000)
            disks.append(bytes(disk.content))
            areas = ExtentMap([Extent(seed * 50_000, seed * 50_000 + 40_000)])
            back_up(source, disk, workers, areas=areas)
        keyrings: dict[End, Keyring] = {"source": source.keyring, "destination": destination.keyring}
        return Pair(folder, keyrings, disks, workers)


@pytest.fixture
def fresh(pair: Pair) -> Iterator[Callable[[], Pair]]:
    """Gives new copies of the pair; the one before is removed."""
    with tempfile.TemporaryDirectory(dir=pair.folder.parent) as folder:

        def one() -> Pair:
            shutil.rmtree(Path(folder) / "pair", ignore_errors=True)
            shutil.copytree(pair.folder, Path(folder) / "pair")
            return Pair(Path(folder) / "pair", pair.keyrings, pair.disks, pair.workers)

        yield one


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("end", ["source", "destination"])
def test_a_call_that_fails_while_points_are_copied_harms_nothing(
    end: End, how: How, fresh: Callable[[], Pair], tally: Tally
) -> None:
    unfailing = fresh()
    backend = FaultyBackend(LocalBackend(unfailing.root(end)))
    unfailing.attempt(end, backend)
    unfailing.assert_unharmed()
    for at in some(range(len(backend.calls)), 1):
        pair = fresh()
        backend = FaultyBackend(LocalBackend(pair.root(end)), Fault(at, how))
        pair.attempt(end, backend)
        pair.assert_unharmed()
        tally.count(f"the k-th call while points are copied, at the {end}", backend.injected)
