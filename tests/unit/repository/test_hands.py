"""What other processes open and seal is as good as if it were done here, and none of them is indispensable."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from offhost.chunking.spans import SPAN_BYTES
from offhost.chunking.workers import SpanWorkers
from offhost.errors import ChunkCorrupt, IntegrityError
from offhost.repository.chunks.hands import Hand, HandLost, Hands
from offhost.repository.chunks.packs import pack_object
from offhost.repository.points.manifest import Manifest
from offhost.repository.points.restorepoint import PointDiskReader
from offhost.repository.repository import Repository
from offhost.repository.verification.verify import verify
from support.repositories import Memory, back_up, content, make, noise, opened

START_WITHIN_S = 60


def begun(hand: Hand) -> Hand:
    """A hand that has begun to listen."""
    assert hand._conversation.poll(START_WITHIN_S)
    assert hand.ready
    return hand


@pytest.fixture(scope="module")
def disk() -> Memory:
    """Two spans: data of all kinds, twice the same, and a hole in between."""
    data = noise(1, 300_000) + b"text " * 60_000
    return Memory((data + bytes(1 << 20) + data).ljust(SPAN_BYTES, b"\0") + noise(2, 100_000))


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    with opened(make(tmp_path / "repository")) as repository:
        repository.store.hands = repository.reader.hands = Hands(count=1, worth_starting=1)
        yield repository


@pytest.fixture
def point(repository: Repository, disk: Memory) -> Manifest:
    with SpanWorkers(1) as workers:
        return back_up(repository, disk, workers)


@pytest.fixture
def hand(repository: Repository, point: Manifest) -> Hand:
    """The one hand of a repository that holds a point already, at work."""
    assert point.disks
    assert repository.store.hands.lend() is None
    return begun(repository.store.hands._free[0])


@contextmanager
def read(source: PointDiskReader, span: int = 0) -> Iterator[bytes]:
    """A span, for as long as it is on loan."""
    with SpanWorkers(1) as workers:
        (part,) = source.parts([span], workers, threading.Event())
        with part.pieces(span) as pieces:
            found = bytearray(source.size_bytes)
            for at, data in pieces:
                found[at : at + len(data)] = data
            yield bytes(found[span * SPAN_BYTES : (span + 1) * SPAN_BYTES])


@pytest.mark.usefixtures("hand")
def test_spans_are_read_by_another_process(repository: Repository, point: Manifest, disk: Memory) -> None:
    source = repository.restore_point(point).disk()
    with read(source, 1) as last, read(source, 0) as first:
        assert last == disk.content[SPAN_BYTES:]
        assert first == disk.content[:SPAN_BYTES]


def test_a_process_that_is_killed_is_done_without(
    repository: Repository, point: Manifest, disk: Memory, hand: Hand
) -> None:
    source = repository.restore_point(point).disk()
    with read(source):
        os.kill(hand._process.pid, signal.SIGKILL)
    with pytest.raises(HandLost):
        hand.open({})
    assert repository.store.hands.lend() is not None
    repository.store.hands.give_back(hand)
    assert repository.store.hands.lend() is None
    with read(source) as found:
        assert found == disk.content[:SPAN_BYTES]


def test_a_process_that_dies_at_work_leaves_it_to_this_one(
    repository: Repository, point: Manifest, disk: Memory, hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Hand, "ready", True)
    hand._process.kill()
    hand._process.wait()
    with read(repository.restore_point(point).disk()) as found:
        assert found == disk.content[:SPAN_BYTES]


@pytest.mark.usefixtures("hand")
def test_damage_that_another_process_finds_is_named_as_ever(repository: Repository, point: Manifest) -> None:
    for pack in repository.store.index.packs:
        path = Path(repository.backend.location) / pack_object(pack)
        data = bytearray(path.read_bytes())
        data[5000] ^= 1
        path.chmod(0o600)
        path.write_bytes(data)
    with pytest.raises(IntegrityError, match="fails its seal"), read(repository.restore_point(point).disk()):
        pass


def test_processes_end_with_the_one_that_asks() -> None:
    hand = begun(Hand())
    hand._conversation.close()  # as when this process is killed
    assert hand._process.wait(START_WITHIN_S) == 0


def test_processes_end_with_the_last_of_the_work(repository: Repository, hand: Hand) -> None:
    with repository.store.hands.at_work():
        with repository.store.hands.at_work():
            pass
        assert hand._process.poll() is None
    assert hand._process.returncode is not None
    assert repository.store.hands.lend() is None, "and begun anew"
    assert repository.store.hands._free[0] is not hand


class Handed(Memory):
    """A disk that waits, before its second span is read, until there is another process to store it."""

    def __init__(self, disk: Memory, repository: Repository) -> None:
        super().__init__(disk.content)
        self._hands = repository.store.hands

    def read_into(self, offset: int, buffer: memoryview) -> None:
        if offset == 0:
            begun(self._hands._free[0])
        super().read_into(offset, buffer)


def three_spans(seed: int, last: bytes = b"") -> Memory:
    """Noise and text, more of it than goes into one pack."""
    return Memory(noise(seed, 2 * SPAN_BYTES) + (b"text %d " % seed * 100_000).ljust(3 << 20, b"\0") + last)


@pytest.mark.slow
def test_a_backup_by_other_processes_stores_what_threads_store(repository: Repository, tmp_path: Path) -> None:
    disk = three_spans(1)
    with opened(make(tmp_path / "alone", like=repository)) as alone, SpanWorkers(1) as workers:
        alone.store.hands = Hands(0)
        back_up(alone, disk, workers)
        alone_bytes = sum(item.size_bytes for item in alone.backend.list("packs/"))
    with SpanWorkers(1) as workers:
        by_hand = back_up(repository, Handed(disk, repository), workers)
    assert content(repository, by_hand) == disk.content
    packs = [item.size_bytes for item in repository.backend.list("packs/")]
    assert len(packs) == 2, "the first pack was filled"
    assert abs(sum(packs) - alone_bytes) < 4096
    assert not verify(repository, data=True, stop=threading.Event()).damage


@pytest.mark.slow
@pytest.mark.parametrize("call", ["cut", "seal"])
def test_a_backup_goes_on_without_a_process_that_dies(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    original = getattr(Hand, call)

    def dying(self: Hand, *arguments: object) -> object:
        self._process.kill()
        return original(self, *arguments)

    monkeypatch.setattr(Hand, call, dying)
    disk = three_spans(2)
    with SpanWorkers(1) as workers:
        point = back_up(repository, Handed(disk, repository), workers)
    assert content(repository, point) == disk.content
    assert not verify(repository, data=True, stop=threading.Event()).damage


@pytest.mark.slow
def test_a_chunk_that_does_not_read_back_elsewhere_fails_the_backup_and_nothing_else(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> object:
        raise ChunkCorrupt("it reads back as something else")

    disk = three_spans(3)
    with SpanWorkers(1) as workers:
        with monkeypatch.context() as patched:
            patched.setattr(Hand, "seal", refuse)
            with pytest.raises(ChunkCorrupt, match="something else"):
                back_up(repository, Handed(disk, repository), workers)
        point = back_up(repository, disk, workers)
    assert content(repository, point) == disk.content
    assert not verify(repository, data=True, stop=threading.Event()).damage
