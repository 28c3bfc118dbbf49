"""What the benchmark knows of its disks without any backup program: used bytes, changed areas, equality."""

from pathlib import Path

import numpy as np

from offhost.blockio import FileReadAt
from offhost.extents import Extent, ExtentMap

PAGE_BYTES = 4096
GRAIN_BYTES = 64 << 10
SPAN_BYTES = 32 << 20


def used_bytes(disk: Path) -> int:
    """Bytes in pages that hold anything but zeros. Reading them also brings the disk into the page cache."""
    source = FileReadAt.open(disk)
    buffer = bytearray(SPAN_BYTES)
    pages = 0
    for start, end in _spans(source.allocated(), source.size_bytes):
        part = memoryview(buffer)[: end - start]
        source.read_into(start, part)
        pages += int(np.frombuffer(part, np.uint64).reshape(-1, PAGE_BYTES // 8).any(axis=1).sum())
    source.close()
    return pages * PAGE_BYTES


def changed_areas(before: Path, after: Path) -> ExtentMap:
    """Where two disks of one size, whole grains of it, differ: as coarse as vSphere's change tracking answers."""
    old, new = FileReadAt.open(before), FileReadAt.open(after)
    if old.size_bytes != new.size_bytes:
        raise ValueError(f"{before} and {after} differ in size")
    left, right = bytearray(SPAN_BYTES), bytearray(SPAN_BYTES)
    areas: list[Extent] = []
    for start, end in _spans(old.allocated().union(new.allocated()), old.size_bytes):
        one, other = memoryview(left)[: end - start], memoryview(right)[: end - start]
        old.read_into(start, one)
        new.read_into(start, other)
        equal = np.frombuffer(one, np.uint64) == np.frombuffer(other, np.uint64)
        differs = ~equal.reshape(-1, GRAIN_BYTES // 8).all(axis=1)
        areas += [
            Extent(start + int(grain) * GRAIN_BYTES, start + (int(grain) + 1) * GRAIN_BYTES)
            for grain in np.flatnonzero(differs)
        ]
    old.close()
    new.close()
    return ExtentMap(areas)


def _spans(areas: ExtentMap, size_bytes: int) -> list[tuple[int, int]]:
    """The spans that hold any of the areas; the last one ends with the disk."""
    starts = {at for area in areas for at in range(area.start // SPAN_BYTES * SPAN_BYTES, area.end, SPAN_BYTES)}
    return [(start, min(start + SPAN_BYTES, size_bytes)) for start in sorted(starts)]


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
