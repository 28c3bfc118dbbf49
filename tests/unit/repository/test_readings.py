"""A restore reads each chunk once, writes it to all its places, and writes nothing that it has not checked."""

import threading
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offhost.blockio import FileWriteAt
from offhost.chunking.spans import SPAN_BYTES, ChunkRef, SpanMap
from offhost.chunking.workers import SpanWorkers
from offhost.errors import IntegrityError
from offhost.ids import ChunkId
from offhost.repository.chunks.packs import Kind, Location, PackCipher
from offhost.repository.points import restorepoint
from offhost.repository.points.readings import first_of_each, readings
from offhost.repository.repository import Repository
from offhost.transport.copying import copy_out
from support.damage import chunks_of, place_of, rot
from support.repositories import Memory, back_up, content, noise, opened, restored

FILE = noise(1, 100 << 12) + (b"text " * 60_000)[: 72 << 12]
DISK = (FILE + bytes(1 << 20) + FILE).ljust(SPAN_BYTES, b"\0") + noise(2, 25 << 12) + bytes(10 << 12) + FILE


@pytest.fixture
def opens() -> Iterator[list[ChunkId]]:
    """The chunks of content that are opened."""
    seen: list[ChunkId] = []
    open_chunk = PackCipher.open_chunk

    def noted(
        cipher: PackCipher, chunk: ChunkId, at: Location, sealed: bytes | memoryview, id_key: bytes
    ) -> bytes | memoryview:
        if at.kind == Kind.CONTENT:
            seen.append(chunk)
        return open_chunk(cipher, chunk, at, sealed, id_key)

    with patch.object(PackCipher, "open_chunk", noted):
        yield seen


def test_a_chunk_of_several_spans_is_read_once(
    repository: Repository, workers: SpanWorkers, opens: list[ChunkId]
) -> None:
    point = back_up(repository, Memory(DISK), workers)
    assert restored(repository.restore_point(point).disk(), workers) == DISK
    assert len(opens) == len(set(opens)) == len(set(chunks_of(repository, point, Kind.CONTENT)))
    opens.clear()
    assert content(repository, point) == DISK
    assert len(opens) > len(set(opens)), "the disk has chunks that several spans share"


def test_a_disk_that_is_too_large_to_be_planned_at_once_is_restored_by_parts(
    repository: Repository, workers: SpanWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restorepoint, "_PART_CHUNKS", 1)
    monkeypatch.setattr(restorepoint, "_MAPS_AT_ONCE", 1)
    point = back_up(repository, Memory(DISK), workers)
    disk = repository.restore_point(point).disk()
    with SpanWorkers(1) as one:
        parts = list(disk.parts(range(len(disk.map)), one, threading.Event()))
        assert [list(part.spans) for part in parts] == [[0], [1]]
        assert restored(disk, one) == DISK


def test_holes_stay_holes(repository: Repository, workers: SpanWorkers, tmp_path: Path) -> None:
    point = back_up(repository, Memory(DISK), workers)
    disk = repository.restore_point(point).disk()
    target = FileWriteAt.create(tmp_path / "disk.raw", disk.size_bytes)
    copy_out(disk, target, workers, lambda _: None)
    target.close()
    assert (tmp_path / "disk.raw").read_bytes() == DISK
    assert (tmp_path / "disk.raw").stat().st_blocks * 512 < 4 * len(FILE)


def test_of_a_damaged_chunk_nothing_is_written_in_any_of_its_places(root: Path, workers: SpanWorkers) -> None:
    with opened(root) as repository:
        point = back_up(repository, Memory(DISK), workers)
        rot(root, place_of(repository, chunks_of(repository, point, Kind.CONTENT)[0]))
    written: list[tuple[int, int]] = []

    class Target:
        size_bytes = len(DISK)

        def write_at(self, offset: int, data: bytes | memoryview) -> None:
            assert DISK[offset : offset + len(data)] == bytes(data), "what is written was checked"
            written.append((offset, len(data)))

        def sync(self) -> None: ...

        def close(self) -> None: ...

    with opened(root) as repository, pytest.raises(IntegrityError):
        copy_out(repository.restore_point(point).disk(), Target(), workers, lambda _: None)
    assert all(at >= SPAN_BYTES for at, _ in written), "the span with the damage, and what it shares, is left alone"


def chunk(number: int, prefix: bytes = b"") -> ChunkId:
    return ChunkId(prefix.ljust(8, b"p") + number.to_bytes(24, "big"))


@pytest.mark.slow
@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 90_000), st.integers(1, 5), st.integers(0, 4), st.booleans()), max_size=12),
        max_size=4,
    )
)
@settings(max_examples=50)
def test_every_byte_is_written_once_from_a_chunk_that_is_equal(
    spans: list[list[tuple[int, int, int, bool]]],
) -> None:
    """Any maps, with chunks whose ids agree in their first bytes, or name chunks of another length."""
    maps: dict[int, SpanMap] = {}
    wanted: dict[int, tuple[ChunkId, int]] = {}
    for span, entries in enumerate(spans):
        refs, at = [], 0
        for gap, length, number, other in entries:
            refs.append(ChunkRef(at + gap, length, chunk(number, b"q" if other else b"")))
            at += gap + length
        maps[span] = SpanMap.of(refs)
        for ref in refs:
            wanted |= {span * SPAN_BYTES + ref.start + byte: (ref.id, byte) for byte in range(ref.length)}
    got: dict[int, tuple[ChunkId, int] | None] = {}
    for _, reading in readings(maps):
        buffer: dict[int, tuple[ChunkId, int]] = {}
        for ref in reading.own:
            buffer |= {ref.start + byte: (ref.id, byte) for byte in range(ref.length)}
        for write in reading.writes:
            for byte in range(write.low, write.high):
                at = write.to + byte - write.low
                assert at not in got
                got[at] = buffer.get(byte)
    assert {at: said for at, said in got.items() if said} == wanted
    assert not [at for at, said in got.items() if said is None and at in wanted]


def test_a_million_chunks_are_planned_in_bounded_time() -> None:
    count = 200_000
    ids = np.random.default_rng(1).integers(0, 255, (count, 32), np.uint8)
    ids[count // 2 :] = ids[: count // 2]
    first = first_of_each(ids, np.ones(count, np.uint32))
    assert (first[count // 2 :] == np.arange(count // 2)).all()
