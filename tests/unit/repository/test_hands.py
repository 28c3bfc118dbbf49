"""Chunks that other processes open are as good as those opened here, and no process is indispensable."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from offhost.chunking.spans import SPAN_BYTES
from offhost.chunking.workers import SpanWorkers
from offhost.errors import IntegrityError
from offhost.repository.hands import Hand, HandLost, Hands
from offhost.repository.manifest import Manifest
from offhost.repository.packs import pack_object
from offhost.repository.repository import Repository
from offhost.repository.restorepoint import PointDiskReader
from support.repositories import Memory, back_up, make, noise, opened

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
        repository.reader.hands = Hands(count=1, worth_starting=1)
        yield repository


@pytest.fixture
def point(repository: Repository, disk: Memory) -> Manifest:
    with SpanWorkers(1) as workers:
        return back_up(repository, disk, workers)


@pytest.fixture
def hand(repository: Repository) -> Hand:
    """The repository's one hand, at work."""
    assert repository.reader.hands.lend() is None
    return begun(repository.reader.hands._free[0])


def lent(source: PointDiskReader, offset: int, length: int) -> bytes:
    with source.lent(offset, length) as buffer:
        assert buffer is not None
        return bytes(buffer)


@pytest.mark.usefixtures("hand")
def test_spans_are_read_by_another_process(repository: Repository, point: Manifest, disk: Memory) -> None:
    source = repository.restore_point(point).disk()
    assert lent(source, SPAN_BYTES, 100_000) == disk.content[SPAN_BYTES:]
    assert lent(source, 0, SPAN_BYTES) == disk.content[:SPAN_BYTES], "what the last span left is gone from the holes"


def test_a_process_that_is_killed_is_done_without(
    repository: Repository, point: Manifest, disk: Memory, hand: Hand
) -> None:
    source = repository.restore_point(point).disk()
    with source.lent(0, SPAN_BYTES):
        os.kill(hand._process.pid, signal.SIGKILL)
    with pytest.raises(HandLost):
        hand.open({})
    assert repository.reader.hands.lend() is not None
    repository.reader.hands.give_back(hand)
    assert repository.reader.hands.lend() is None
    with source.lent(0, SPAN_BYTES) as buffer:
        assert buffer is None


def test_a_process_that_dies_at_work_leaves_it_to_this_one(
    repository: Repository, point: Manifest, disk: Memory, hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Hand, "ready", True)
    hand._process.kill()
    hand._process.wait()
    assert lent(repository.restore_point(point).disk(), 0, SPAN_BYTES) == disk.content[:SPAN_BYTES]


@pytest.mark.usefixtures("hand")
def test_damage_that_another_process_finds_is_named_as_ever(repository: Repository, point: Manifest) -> None:
    for pack in repository.store.index.packs:
        path = Path(repository.backend.location) / pack_object(pack)
        data = bytearray(path.read_bytes())
        data[5000] ^= 1
        path.chmod(0o600)
        path.write_bytes(data)
    with pytest.raises(IntegrityError, match="fails its seal"):
        lent(repository.restore_point(point).disk(), 0, SPAN_BYTES)


def test_part_of_a_span_is_not_lent(repository: Repository, point: Manifest) -> None:
    with repository.restore_point(point).disk().lent(4096, 8192) as buffer:
        assert buffer is None


def test_processes_end_with_the_one_that_asks() -> None:
    hand = begun(Hand())
    hand._conversation.close()  # as when this process is killed
    assert hand._process.wait(START_WITHIN_S) == 0


def test_processes_that_rest_are_gone(repository: Repository, hand: Hand) -> None:
    repository.reader.hands.rest()
    assert hand._process.returncode is not None
    assert repository.reader.hands.lend() is None, "and begun anew"
    assert repository.reader.hands._free[0] is not hand
