"""Memory or a processor that changes bytes on their way into a pack: no point comes of it, and others do not suffer."""

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import pytest

from faults.campaign import Tally, some
from faults.story import World, assert_unharmed, at_once, third_disk
from offhost.backend.local import LocalBackend
from offhost.chunking.compress import Codec, Compression
from offhost.errors import ChunkCorrupt, OffhostError
from support.repositories import noise

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

Fresh = Callable[[], World]
compress = Compression.compress


@dataclass
class Faulty:
    """Flips a bit in what the k-th call of `Compression.compress` gives back, counted from 0. Thread-safe."""

    struck: int | None
    calls: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def struck_compress(compression: Compression, plain: memoryview) -> tuple[Codec, bytes | memoryview]:
            codec, data = compress(compression, plain)
            with self._lock:
                number, self.calls = self.calls, self.calls + 1
            return codec, _flipped(data) if number == self.struck else data

        monkeypatch.setattr(Compression, "compress", struck_compress)


def _flipped(data: bytes | memoryview) -> bytes:
    wrong = bytearray(data)
    wrong[len(wrong) // 2] ^= 1
    return bytes(wrong)


def back_up_twice(world: World) -> list[OffhostError]:
    """Two backups at once that share content; the errors they end in."""
    disk, areas = third_disk()
    errors: list[OffhostError] = []

    def one(name: str, content: bytes) -> None:
        try:
            world.store(repository, name, content, areas if name == "web" else None)
        except OffhostError as error:
            errors.append(error)

    with world.on(LocalBackend(world.root)) as repository:
        at_once([lambda: one("web", disk), lambda: one("mail", disk[20_000:150_000] + noise(6, 100_000))])
        with suppress(OffhostError):
            world.store(repository, "later", noise(7, 30_000))
    return errors


def test_a_byte_that_changes_before_it_is_sealed_makes_no_point(
    fresh: Fresh, monkeypatch: pytest.MonkeyPatch, tally: Tally
) -> None:
    counting = Faulty(None)
    counting.install(monkeypatch)
    assert back_up_twice(fresh()) == []
    for struck in some(range(counting.calls), 2):
        world = fresh()
        Faulty(struck).install(monkeypatch)
        errors = back_up_twice(world)
        monkeypatch.undo()
        assert all(isinstance(error, ChunkCorrupt) for error in errors)
        assert_unharmed(world)
        tally.count("a bit flipped before sealing", 1)
