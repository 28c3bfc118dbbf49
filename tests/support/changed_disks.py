"""Small disks over an alphabet of few pages, and changes to them, for tests of incremental cutting."""

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from offhost.chunking.pages import PAGE_BYTES, PageCutter
from offhost.extents import Extent, ExtentMap

CUTTER = PageCutter(b"\x05" * 32)


def _alphabet() -> NDArray[np.uint8]:
    """A zero page, two that may end a piece, three that may not."""
    may_end: list[NDArray[np.uint8]] = []
    may_not: list[NDArray[np.uint8]] = []
    for number in range(1, 200):
        page = np.frombuffer(number.to_bytes(8, "little") * (PAGE_BYTES // 8), np.uint8)
        (may_end if CUTTER.scan(page.data)[1][0] else may_not).append(page)
    return np.stack([np.zeros(PAGE_BYTES, np.uint8), *may_end[:2], *may_not[:3]])


PAGES = _alphabet()
ZERO, END, OTHER_END, PLAIN = range(4)

Runs = list[tuple[int, int]]
"""Pages as (which of the alphabet, how many)."""


def disk_of(runs: Runs) -> NDArray[np.uint8]:
    """The bytes of a disk."""
    symbols = np.repeat([symbol for symbol, _ in runs], [count for _, count in runs]).astype(np.intp)
    return PAGES[symbols].ravel()


@dataclass(frozen=True, slots=True)
class Edit:
    """Bytes written over a disk at an offset; `changed=False` says so without doing it, as a tracker may."""

    offset: int
    data: NDArray[np.uint8]
    changed: bool = True


def edited(disk: NDArray[np.uint8], edits: list[Edit]) -> tuple[NDArray[np.uint8], ExtentMap]:
    """The disk afterwards, and the areas a tracker would report."""
    after = disk.copy()
    areas: list[Extent] = []
    for edit in edits:
        end = min(edit.offset + len(edit.data), len(disk))
        if edit.changed:
            after[edit.offset : end] = edit.data[: end - edit.offset]
        areas.append(Extent(edit.offset, end))
    return after, ExtentMap(areas)


_runs = st.tuples(
    st.sampled_from([ZERO, ZERO, END, OTHER_END, PLAIN, PLAIN, PLAIN + 1, PLAIN + 2]),
    st.sampled_from([1, 1, 2, 3, 4, 5, 8, 20, 70]),
)


@st.composite
def changes(draw: st.DrawFn) -> tuple[NDArray[np.uint8], list[Edit]]:
    """A disk, whose last page may be short, and edits to it, most of them of whole pages."""
    disk = disk_of(draw(st.lists(_runs, min_size=1, max_size=16)))
    disk = disk[: len(disk) - draw(st.sampled_from([0, 0, 0, 1, 512, 3584, 4095]))]
    pages = -(-len(disk) // PAGE_BYTES)
    edits = []
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, pages - 1)) * PAGE_BYTES
        if draw(st.booleans()):
            data = disk_of(draw(st.lists(_runs, min_size=1, max_size=4)))
        else:
            at = min(at + draw(st.integers(0, PAGE_BYTES - 1)), len(disk) - 1)
            data = np.full(draw(st.sampled_from([1, 512, 5000, 70_000])), draw(st.sampled_from([0, 7])), np.uint8)
        edits.append(Edit(at, data, changed=draw(st.sampled_from([True, True, True, False]))))
    return disk, edits
