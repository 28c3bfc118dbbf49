"""Sparse extents: grains found through a directory of tables, whatever the format.

Owns: the look-up and the reading of uncompressed grains, fast for whole spans. Does not own: headers and the meaning
of table entries (hosted, cowd, sesparse), compressed grains (stream).

Nothing of the tables is kept but the directory: a table is a few KiB in the page cache, and a look-up without a cache
of our own needs no lock.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offhost.blockio import ReadAt, check_range, clear, read_bytes
from offhost.errors import DamagedImage
from offhost.extents import Extent, ExtentMap

BELOW = -1
"""In the place of a grain: this extent does not hold it, the level below answers."""
ZERO = -2
"""In the place of a grain: it reads as zeros, whatever lies below."""

Places = NDArray[np.int64]

_LIMIT_DIRECTORY_BYTES = 64 << 20
"""The largest disk, at the smallest coverage of its format, needs 32 MiB."""
_PIECE_BYTES = 8 << 20
_FEW_RUNS = 8
_SCATTERED_RUN_BYTES = 16 << 10
"""Runs shorter than this on average are gathered from one read: a system call each would cost more than the bytes."""
_SPARSENESS = 3
_COARSE_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class GrainMap:
    """Where the grains of a sparse extent lie in its file. Immutable, so safe between threads."""

    name: str
    file: ReadAt
    size_bytes: int
    """Bytes of the disk that the extent covers."""
    grain_bytes: int
    table_entries: int
    entry: np.dtype[np.uint32] | np.dtype[np.uint64]
    tables: Places
    """The place of each table in the file; 0 for a table whose grains all lie below."""
    decode: Callable[[NDArray[np.uint64]], Places]
    """Table entries to places in the file, BELOW or ZERO; nonsense becomes a place outside of any file."""

    @property
    def grains(self) -> int:
        """Grains of the extent; the last one may reach beyond its end."""
        return -(-self.size_bytes // self.grain_bytes)

    def locate(self, first: int, count: int) -> Places:
        """The places of `count` grains from grain `first` on. Raises: DamagedImage when one is outside of the file."""
        places = np.full(count, BELOW, np.int64)
        done = 0
        while done < count:
            table, at = divmod(first + done, self.table_entries)
            take = min(count - done, self.table_entries - at)
            if self.tables[table]:
                offset = int(self.tables[table]) + at * self.entry.itemsize
                raw = np.frombuffer(read_bytes(self.file, offset, take * self.entry.itemsize), self.entry)
                places[done : done + take] = self.decode(raw.astype(np.uint64))
            done += take
        if np.any(places >= self.file.size_bytes) or np.any(places < ZERO):
            raise damaged(self.name, f"grain {first + int(np.argmax(places))} of the disk lies outside of the file")
        return places

    def allocated(self) -> ExtentMap:
        """What the extent holds, rounded outward to 64 KiB: a superset of it."""
        coarse = max(1, _COARSE_BYTES // self.grain_bytes)
        extents: list[Extent] = []
        for table in np.flatnonzero(self.tables):
            first = int(table) * self.table_entries
            held = self.locate(first, min(self.table_entries, self.grains - first)) >= 0
            blocks = np.logical_or.reduceat(held, np.arange(0, len(held), coarse))
            for start, end in _true_runs(blocks):
                low = (first + start * coarse) * self.grain_bytes
                extents.append(Extent(low, min((first + end * coarse) * self.grain_bytes, self.size_bytes)))
        return ExtentMap(extents)


def damaged(name: str, what: str) -> DamagedImage:
    """The error for a sparse file that contradicts itself."""
    return DamagedImage(f"{name}: {what}", hint="the file is cut short or damaged: copy the disk again")


def directory_bytes(entries: int, entry_bytes: int, name: str) -> int:
    """The size of a directory. Raises: DamagedImage for one that no real disk needs."""
    if not 0 < entries * entry_bytes <= _LIMIT_DIRECTORY_BYTES:
        raise damaged(name, f"a grain directory of {entries} entries belongs to no real disk")
    return entries * entry_bytes


def check_tables(tables: Places, table_bytes: int, file: ReadAt, name: str) -> Places:
    """The places of tables, when all that there are lie within the file. Raises: DamagedImage."""
    if np.any(tables < 0) or np.any(tables[tables > 0] > file.size_bytes - table_bytes):
        raise damaged(name, "the grain directory names a table outside of the file")
    return tables


def read_metadata(file: ReadAt, offset: int, length: int, name: str) -> bytes:
    """A piece of a header or directory. Raises: DamagedImage when the file does not reach so far."""
    if offset + length > file.size_bytes:
        raise damaged(name, f"{length} bytes of metadata at byte {offset} leave the file of {file.size_bytes} bytes")
    return read_bytes(file, offset, length)


class SparseExtent:
    """A piece of a disk whose grains lie uncompressed in a file, over the same window of the level below."""

    def __init__(self, grains: GrainMap, below: ReadAt) -> None:
        self._map, self._below = grains, below

    @property
    def size_bytes(self) -> int:
        """Bytes of the disk that it covers."""
        return self._map.size_bytes

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the buffer, some MiB at a time."""
        check_range(offset, len(buffer), self.size_bytes)
        for start in range(0, len(buffer), _PIECE_BYTES):
            self._read_piece(offset + start, buffer[start : start + _PIECE_BYTES])

    def allocated(self) -> ExtentMap:
        """What the file holds."""
        return self._map.allocated()

    def _read_piece(self, offset: int, buffer: memoryview) -> None:
        grain = self._map.grain_bytes
        first = offset // grain
        places = self._map.locate(first, -(-(offset + len(buffer)) // grain) - first)
        runs = list(_place_runs(places, grain))
        scattered = len(runs) > _FEW_RUNS and len(runs) * _SCATTERED_RUN_BYTES > len(buffer)
        if scattered and self._is_dense(places):
            self._gather(offset, buffer, places)
            return
        for start, end, place in runs:
            low, high = max((first + start) * grain, offset), min((first + end) * grain, offset + len(buffer))
            target = buffer[low - offset : high - offset]
            if place == ZERO:
                clear(target)
            elif place == BELOW:
                self._below.read_into(low, target)
            else:
                self._read_file(place + low - (first + start) * grain, target)

    def _read_file(self, offset: int, target: memoryview) -> None:
        if offset + len(target) > self._map.file.size_bytes:
            raise damaged(self._map.name, f"ends at byte {self._map.file.size_bytes}, within a grain")
        self._map.file.read_into(offset, target)

    def _is_dense(self, places: Places) -> bool:
        """Whether one read from the first to the last of the grains does not bring much that is not wanted."""
        held = places[places >= 0]
        if not len(held):
            return True
        start, end = int(held.min()), int(held.max()) + self._map.grain_bytes
        return end <= self._map.file.size_bytes and end - start <= _SPARSENESS * len(places) * self._map.grain_bytes

    def _gather(self, offset: int, buffer: memoryview, places: Places) -> None:
        """Read many short runs: the level below once, the file once, each grain then copied to where it belongs."""
        grain = self._map.grain_bytes
        first = offset // grain
        whole = np.zeros((len(places), grain), np.uint8)
        if np.any(places == BELOW):
            end = min((first + len(places)) * grain, self.size_bytes)
            self._below.read_into(first * grain, whole.reshape(-1).data[: end - first * grain])
        whole[places == ZERO] = 0
        held = places >= 0
        if np.any(held):
            start = int(places[held].min())
            data = np.empty(int(places[held].max()) + grain - start, np.uint8)
            self._map.file.read_into(start, data.data)
            windows = np.lib.stride_tricks.sliding_window_view(data, grain)
            whole[held] = windows[places[held] - start]
        skip = offset - first * grain
        np.frombuffer(buffer, np.uint8)[:] = whole.reshape(-1)[skip : skip + len(buffer)]


def _place_runs(places: Places, grain_bytes: int) -> Iterator[tuple[int, int, int]]:
    """Runs of grains that one read serves: (first, end, place of the first), counted from the first place given."""
    ahead, behind = places[1:], places[:-1]
    joined = np.where(behind < 0, ahead == behind, ahead - behind == grain_bytes)
    starts = np.concatenate(([0], np.flatnonzero(~joined) + 1))
    ends = np.append(starts[1:], len(places))
    return zip(starts.tolist(), ends.tolist(), places[starts].tolist(), strict=True)


def _true_runs(flags: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Runs of set flags, as half-open ranges."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], flags.astype(np.int8), [0]))))
    return zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
