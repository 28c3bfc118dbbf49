"""One packer for all sessions: its memory is bounded, and what hangs or fails hurts nobody else."""

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import blake3
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offhost.backend.local import LocalBackend
from offhost.chunking.compress import Codec
from offhost.chunking.spans import CompressedChunk
from offhost.clock import SystemClock
from offhost.errors import ChunkCorrupt, NoSpace, Unavailable
from offhost.ids import ChunkId
from offhost.repository.chunks import packer, packs
from offhost.repository.chunks.claims import Claim
from offhost.repository.chunks.packs import Kind, OpenPack, read_directory
from offhost.repository.chunks.store import ChunkStore
from offhost.repository.keys.keyring import Keyring
from offhost.repository.objects.graves import Graveyard
from offhost.repository.objects.marks import Marks

PACK_BYTES = 64 << 10
CHUNK_BYTES = 4 << 10


@pytest.fixture(autouse=True)
def small_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs, "PACK_LIMIT_BYTES", PACK_BYTES)


class Hindered(LocalBackend):
    """A local directory whose puts of packs wait at a gate, or fail; remembers the memory they come from."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.gate = threading.Event()
        self.gate.set()
        self.held_puts = 0
        self.waiting = 0
        self.buffers: set[int] = set()
        self.at_once = 0
        self.most_at_once = 0
        self.delay_s = 0.0
        self.failing: list[Exception] = []
        self._lock = threading.Lock()

    def hold(self, puts: int) -> None:
        """Let the next so many puts hang until `gate` is set."""
        self.gate.clear()
        self.held_puts = puts

    def has_waiting(self, puts: int) -> bool:
        return self.waiting >= puts

    def put(self, name: str, data: bytes | bytearray | memoryview) -> None:
        if not name.startswith("packs/"):
            return super().put(name, data)
        with self._lock:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            if isinstance(data, memoryview):
                self.buffers.add(id(data.obj))
            held = self.held_puts > 0
            self.held_puts -= held
            error = self.failing.pop() if self.failing else None
            self.waiting += held
        try:
            if held:
                self.gate.wait()
            if error:
                raise error
            time.sleep(self.delay_s)
            super().put(name, data)
        finally:
            with self._lock:
                self.at_once -= 1


@pytest.fixture
def backend(tmp_path: Path) -> Hindered:
    folders = ["index", "condemned", "sweeps", "marks", *(f"packs/{number:02x}" for number in range(256))]
    LocalBackend.create(tmp_path / "repository", folders)
    return Hindered(tmp_path / "repository")


@contextmanager
def opened(backend: LocalBackend) -> Iterator[ChunkStore]:
    keyring = Keyring.new()
    marks = Marks(backend, keyring, SystemClock())
    store = ChunkStore(backend, keyring, graveyard=Graveyard(backend, keyring), marks=marks, cache=None)
    store.refresh(for_writing=True)
    try:
        yield store
    finally:
        if isinstance(backend, Hindered):
            backend.gate.set()
        store.close()


class Paused(SystemClock):
    """Time that passes only when a test says so."""

    def __init__(self) -> None:
        self._at = 0.0

    def monotonic(self) -> float:
        return self._at

    def wait(self, seconds: float) -> None:
        self._at += seconds


def until(done: Callable[[], bool]) -> None:
    """Wait for other threads."""
    deadline = time.monotonic() + 30
    while not done():
        assert time.monotonic() < deadline, "nothing happens"
        time.sleep(0.005)


def chunk_of(store: ChunkStore, seed: int) -> CompressedChunk:
    plain = np.random.default_rng(seed).bytes(CHUNK_BYTES)
    identity = ChunkId(blake3.blake3(plain, key=store.keyring.id_key).digest())
    return CompressedChunk(identity, Codec.RAW, len(plain), plain, memoryview(plain))


def send(store: ChunkStore, chunks: list[CompressedChunk]) -> Claim:
    """Promise and send on what is missing, as a session does."""
    wanted, claim, _ = store.claims.claim([chunk.id for chunk in chunks])
    some = [chunks[at] for at in wanted]
    store.packer.add(some, Kind.CONTENT, [claim] * len(some), "full")
    return claim


def settled(store: ChunkStore, claim: Claim, timeout_s: float = 20) -> bool:
    """Whether a claim came to an end; flushes meanwhile, as a session that settles does."""
    deadline = time.monotonic() + timeout_s
    while not claim.wait(0.02) and time.monotonic() < deadline:
        store.packer.flush()
    return claim.wait(0)


def stored(store: ChunkStore) -> list[bytes]:
    """The id of every chunk in every pack, as often as it is stored."""
    names = [item.name.rpartition("/")[2] for item in store.backend.list("packs/")]
    return [each for name in names for each in read_directory(store.backend, store.keyring, name)["id"].tolist()]


def test_all_sessions_together_hold_no_more_than_the_budget(backend: Hindered) -> None:
    backend.delay_s = 0.01
    with opened(backend) as store, ThreadPoolExecutor(8) as sessions:

        def session(number: int) -> list[Claim]:
            return [send(store, [chunk_of(store, 1000 * number + at)]) for at in range(40)]

        claims = [claim for done in sessions.map(session, range(8)) for claim in done]
        assert all(settled(store, claim) and claim.kept for claim in claims)
        assert len(stored(store)) == 8 * 40
    assert len(backend.buffers) <= 4
    assert backend.most_at_once <= 2


def test_a_put_that_hangs_is_given_up_and_others_go_on(backend: Hindered) -> None:
    with opened(backend) as store:
        clock = Paused()
        store.packer._clock = clock
        backend.hold(2)  # as many as there are threads that put
        hanging = []
        for number in range(2):
            hanging.append(send(store, [chunk_of(store, number)]))
            store.packer.flush()
        until(lambda: backend.waiting == 2)
        clock.wait(packer.PUT_PATIENCE_S + 1)
        assert all(settled(store, claim) for claim in hanging)
        assert all(isinstance(claim.error, Unavailable) for claim in hanging)
        other = send(store, [chunk_of(store, number) for number in range(10, 60)])
        assert settled(store, other)
        assert other.kept
        again = send(store, [chunk_of(store, number) for number in range(2)])
        assert settled(store, again)
        assert again.kept, "what the others promised is stored by who needs it"


def test_a_put_that_returns_after_all_counts(backend: Hindered) -> None:
    with opened(backend) as store:
        clock = Paused()
        store.packer._clock = clock
        backend.hold(1)
        chunk = chunk_of(store, 1)
        claim = send(store, [chunk])
        store.packer.flush()
        until(lambda: backend.waiting == 1)
        clock.wait(packer.PUT_PATIENCE_S + 1)
        assert settled(store, claim)
        assert not store.index.exist([chunk.id])[0]
        backend.gate.set()
        until(lambda: store.index.exist([chunk.id])[0])
        assert not claim.kept


@pytest.mark.slow
def test_when_all_puts_hang_nobody_waits_for_ever(backend: Hindered) -> None:
    with opened(backend) as store:
        clock = Paused()
        store.packer._clock = clock
        backend.hold(1000)
        with ThreadPoolExecutor(1) as worker:
            filling = worker.submit(lambda: [send(store, [chunk_of(store, number)]) for number in range(1000)])
            for hanging in range(1, 5):
                until(partial(backend.has_waiting, hanging))
                clock.wait(packer.PUT_PATIENCE_S + 1)
            with pytest.raises(Unavailable, match="do not arrive"):
                filling.result()
        backend.held_puts = 0
        backend.gate.set()
        until(lambda: not backend.at_once)
        claim = send(store, [chunk_of(store, 2000)])
        assert settled(store, claim)
        assert claim.kept, "it goes on when the store does"


def test_closing_does_not_wait_for_a_put_that_hangs(backend: Hindered) -> None:
    with opened(backend) as store:
        clock = Paused()
        store.packer._clock = clock
        backend.hold(1)
        claim = send(store, [chunk_of(store, 1)])
        store.packer.flush()
        until(lambda: backend.waiting == 1)
        clock.wait(packer.PUT_PATIENCE_S + 1)
        store.packer.close()
        assert isinstance(claim.error, Unavailable)


def test_a_closed_store_lets_go_of_its_memory_at_once(backend: Hindered) -> None:
    with opened(backend) as store:
        claim = send(store, [chunk_of(store, 1)])
        assert settled(store, claim)
    assert claim.kept
    assert not store.packer._buffers
    gone = weakref.ref(store.packer)
    gc.disable()
    try:
        until(lambda: not any(thread.name == "put-pack" for thread in threading.enumerate()))
        del store, claim
        assert gone() is None, "what is a circle stays until it is looked for, which memory alone never causes"
    finally:
        gc.enable()


def test_a_pack_that_cannot_be_put_breaks_its_promises_and_no_other(backend: Hindered) -> None:
    with opened(backend) as store:
        backend.failing.append(NoSpace("full"))
        first = send(store, [chunk_of(store, 1)])
        assert settled(store, first)
        assert isinstance(first.error, NoSpace)
        second = send(store, [chunk_of(store, 2)])
        assert settled(store, second)
        assert second.kept
        assert len(stored(store)) == 1


def lying(chunk: CompressedChunk) -> CompressedChunk:
    """A chunk whose bytes changed between being read and being sealed."""
    data = bytes([chunk.data[0] ^ 1]) + bytes(chunk.data[1:])
    return CompressedChunk(chunk.id, chunk.codec, chunk.plain_bytes, data, chunk.plain)


def test_a_chunk_that_fails_its_check_does_not_spoil_its_neighbours(backend: Hindered) -> None:
    with opened(backend) as store:
        other = send(store, [chunk_of(store, number) for number in range(3)])
        with pytest.raises(ChunkCorrupt):
            send(store, [lying(chunk_of(store, 10))])
        assert settled(store, other)
        assert other.kept
        assert set(stored(store)) == {chunk_of(store, number).id for number in range(3)}
        again = send(store, [chunk_of(store, 10)])
        assert settled(store, again)
        assert again.kept


def test_a_fault_that_hit_the_neighbours_too_drops_the_pack(backend: Hindered, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(backend) as store:
        other = send(store, [chunk_of(store, 1)])
        check_last = OpenPack.check_last

        def hit(self: OpenPack, chunk: CompressedChunk, kind: Kind) -> None:
            self.buffer[100] ^= 1  # within the first chunk
            check_last(self, chunk, kind)

        monkeypatch.setattr(OpenPack, "check_last", hit)
        with pytest.raises(ChunkCorrupt):
            send(store, [lying(chunk_of(store, 2))])
        assert settled(store, other)
        assert isinstance(other.error, ChunkCorrupt)
        assert stored(store) == []


def test_sealing_that_fails_leaves_the_others_whole(backend: Hindered, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(backend) as store:
        other = send(store, [chunk_of(store, 1)])

        def no_memory(self: OpenPack, chunk: CompressedChunk, kind: Kind) -> None:
            raise MemoryError

        with monkeypatch.context() as patched:
            patched.setattr(OpenPack, "add", no_memory)
            with pytest.raises(MemoryError):
                send(store, [chunk_of(store, 2)])
        assert settled(store, other)
        assert other.kept
        assert stored(store) == [chunk_of(store, 1).id]


@pytest.mark.slow
@settings(deadline=None, max_examples=25)
@given(
    wants=st.lists(
        st.lists(st.lists(st.integers(0, 60), min_size=1, max_size=12), min_size=1, max_size=6), min_size=2, max_size=5
    )
)
def test_threads_that_store_at_once_store_no_chunk_twice(
    tmp_path_factory: pytest.TempPathFactory, wants: list[list[list[int]]]
) -> None:
    folders = ["index", "condemned", "sweeps", "marks", *(f"packs/{number:02x}" for number in range(256))]
    backend = LocalBackend.create(tmp_path_factory.mktemp("packer") / "repository", folders)
    with opened(backend) as store, ThreadPoolExecutor(len(wants)) as sessions:

        def session(batches: list[list[int]]) -> list[Claim]:
            return [send(store, [chunk_of(store, seed) for seed in batch]) for batch in batches]

        claims = [claim for done in sessions.map(session, wants) for claim in done]
        for claim in claims:
            assert claim._left == 0 or settled(store, claim)
        expected = {chunk_of(store, seed).id for batches in wants for batch in batches for seed in batch}
        everything = stored(store)
        assert len(everything) == len(set(everything))
        assert set(everything) == expected
        assert store.index.exist(list(expected)) == [True] * len(expected)
