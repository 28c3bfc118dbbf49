"""What is stored is read whatever the index says, and what cannot be reached is not called damaged."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from offhost.backend.local import LocalBackend
from offhost.chunking.spans import SPAN_BYTES
from offhost.chunking.workers import SpanWorkers
from offhost.errors import ChunkCorrupt, Unavailable
from offhost.repository.chunks.hands import Hands
from offhost.repository.chunks.packs import Kind
from offhost.repository.chunks.runs import Run, get_run, put_run
from offhost.repository.points.manifest import Manifest
from offhost.repository.repository import Repository
from support.damage import chunks_of, place_of, rot
from support.faulty_backend import FaultyBackend
from support.repositories import PASSPHRASE, Memory, back_up, content, noise, opened, restored

FIELDS = pytest.mark.parametrize("field", ["slot", "offset", "stored", "plain", "kind", "codec"])

DISK = noise(1, 300_000) + bytes(SPAN_BYTES - 300_000) + noise(2, 100_000)


@pytest.fixture
def stored(root: Path, workers: SpanWorkers) -> Path:
    """A repository with one point."""
    with opened(root) as repository:
        back_up(repository, Memory(DISK), workers)
    return root


def lie_about(root: Path, field: str) -> None:
    """Put runs that say something else of every chunk in the place of the true ones."""
    with opened(root) as repository:
        backend, keyring = repository.backend, repository.keyring
        for item in list(backend.list("index/")):
            run = get_run(backend, keyring, item.name)
            entries = np.array(run.entries)
            entries[field] = 0 if field in ("kind", "codec") and entries[field].any() else entries[field] // 2 + 1
            backend.delete(item.name)
            put_run(backend, keyring, Run(run.packs, entries, run.shard))


def with_a_hand(repository: Repository, point: Manifest) -> bytes:
    """A whole disk, as a restore reads it that has processes to help."""
    hands = repository.store.hands = repository.reader.hands = Hands(count=1, worth_starting=1)
    assert hands.lend() is None
    assert hands._free[0]._conversation.poll(60)
    disk = repository.restore_point(point).disk()
    with SpanWorkers(1) as workers:
        return restored(disk, workers)


@FIELDS
@pytest.mark.parametrize("read", [content, with_a_hand])
def test_a_run_that_tells_a_wrong_place_keeps_nothing_from_being_read(
    stored: Path, field: str, read: Callable[[Repository, Manifest], bytes]
) -> None:
    lie_about(stored, field)
    with opened(stored) as repository:
        (point,) = repository.points.all()
        with repository.reading(point):
            assert read(repository, point) == DISK
        assert repository.marks.damaged() == {}, "what is where its pack says that it is, is not damaged"


def test_a_true_index_costs_no_look_into_directories(stored: Path) -> None:
    with opened(stored) as repository:
        backend = FaultyBackend(LocalBackend(stored))
        again = Repository(backend, repository.keyring, unlock=PASSPHRASE)
        with again:
            again.refresh()
            (point,) = again.points.all()
            assert content(again, point) == DISK
            assert not [call for call in backend.calls if call.startswith("size packs/")]


def test_a_chunk_that_is_damaged_where_its_pack_has_it_is_refused_and_known_as_damaged(stored: Path) -> None:
    with opened(stored) as repository:
        (point,) = repository.points.all()
        place = place_of(repository, chunks_of(repository, point, Kind.CONTENT)[0])
        rot(stored, place)
    lie_about(stored, "slot")
    with opened(stored) as repository:
        with pytest.raises(ChunkCorrupt), repository.reading(point):
            content(repository, point)
        assert repository.marks.damaged() == {place.pack: frozenset({place.slot})}


class Unreachable(LocalBackend):
    """A store whose packs cannot be reached for a while."""

    away = True

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        if self.away and name.startswith("packs/"):
            raise Unavailable(f"{name}: no answer")
        return super().get_range(name, offset, length)


@contextmanager
def unreachable(root: Path) -> Iterator[tuple[Unreachable, Repository]]:
    with opened(root) as repository:
        backend = Unreachable(root)
        with Repository(backend, repository.keyring, unlock=PASSPHRASE) as again:
            again.refresh()
            yield backend, again


def test_what_cannot_be_reached_is_not_called_missing_and_is_read_as_soon_as_it_can_be(stored: Path) -> None:
    for run in (stored / "index").iterdir():
        run.unlink()  # so that the packs are known by their directories
    with unreachable(stored) as (backend, repository):
        (point,) = repository.points.all()
        with pytest.raises(Unavailable):
            content(repository, point)
        backend.away = False
        assert content(repository, point) == DISK
