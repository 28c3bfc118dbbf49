"""Whatever a disk goes through, each of its points arrives as it was, and with the map that a full copy of it has."""

import os
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offhost.backup.replication import Replication
from offhost.chunking.pages import PAGE_BYTES
from offhost.chunking.workers import SpanWorkers
from offhost.extents import Extent, ExtentMap
from support.replicas import copy_all, replication, the_copy
from support.repositories import Memory, back_up, content, make, noise, opened

_numbers = count(1)


@pytest.fixture(scope="module")
def copiers(workers: SpanWorkers) -> Iterator[list[Replication]]:
    """From one repository to one that cuts otherwise, and to one that cuts alike."""
    shared = Path("/dev/shm")
    with (
        tempfile.TemporaryDirectory(dir=shared if os.access(shared, os.W_OK) else None) as folder,
        opened(make(Path(folder) / "source")) as source,
        opened(make(Path(folder) / "other")) as other,
        opened(make(Path(folder) / "alike", like=source)) as alike,
    ):
        yield [replication(source, destination, workers) for destination in (other, alike)]


def pages(runs: list[tuple[int, int]]) -> bytes:
    """Runs of pages, each of one of a few contents; 0 is a hole."""
    return b"".join((noise(seed, PAGE_BYTES) if seed else bytes(PAGE_BYTES)) * many for seed, many in runs)


contents = st.lists(
    st.tuples(st.sampled_from([0, 0, 1, 2, 3, 4, 5, 6, 7]), st.sampled_from([1, 2, 3, 4, 9, 30])),
    min_size=1,
    max_size=8,
).map(pages)
writes = st.tuples(st.integers(0, 400_000), contents)
resizes = st.sampled_from([1, PAGE_BYTES, 100_000, 333_333, 500_000])
steps = st.lists(
    st.tuples(st.one_of(st.lists(writes, max_size=3), resizes), st.sets(st.sampled_from([0, 1]))),
    min_size=1,
    max_size=5,
)


def changed(disk: bytearray, step: list[tuple[int, bytes]] | int) -> ExtentMap | None:
    """Change a disk; the areas, None when it is to be read in full."""
    if isinstance(step, int):
        disk[:] = disk[:step].ljust(step, b"\0")
        return None
    areas = []
    for at, data in step:
        start = min(at, len(disk))
        end = min(start + len(data), len(disk))
        disk[start:end] = data[: end - start]
        areas.append(Extent(start, end))
    return ExtentMap(areas)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(first=contents, history=steps)
def test_incremental_copies_equal_full_ones(
    first: bytes, history: list[tuple[list[tuple[int, bytes]] | int, set[int]]], copiers: list[Replication]
) -> None:
    name, workers = f"vm{next(_numbers)}", copiers[0].destination.workers
    disk = bytearray(first)
    points = [(back_up(copiers[0].source, Memory(disk), workers, name=name), bytes(disk))]
    for step, copied_now in history:
        areas = changed(disk, step)
        point = back_up(copiers[0].source, Memory(disk), workers, name=name, areas=areas)
        points.append((point, bytes(disk)))
        for which in copied_now:
            copy_all(copiers[which], name=name)
    for copier in copiers:
        copy_all(copier, name=name)
        there = copier.destination.repository
        for point, wanted in points:
            copy = the_copy(copier, point)
            assert content(there, copy) == wanted
            full = back_up(there, Memory(wanted), workers, name=f"{name}, read in full")
            assert copy.disks[0].map.root == full.disks[0].map.root
