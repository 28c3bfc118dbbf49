"""Segments: sorted rows of the index, in memory or mapped from a private local file, searched and merged piecewise.

Owns: look-up in one segment, the layout of a cached file and its checks. Does not own: which packs count (standing),
which segments there are (index).

A cached file is this process's own memory on disk: losing it costs reading the runs again. It is divided into buckets
by the first bits of the ids. Opening it checks its tables; a bucket is checked, once, before the first row of it is
believed. So opening costs nothing by its size, and a torn or rotten file gives no answer, in particular not that a
chunk exists which does not. The checks are keyed: another repository's file, or one that somebody made up, is no file.
"""

import fcntl
import logging
import mmap
import os
import secrets
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import blake3
import numpy as np
from numpy.typing import NDArray

from offhost.errors import IndexInconsistent
from offhost.repository.chunks.packs import ENTRY, Entries, Location
from offhost.repository.chunks.rows import (
    Ids,
    Keys,
    key_column,
    keys_of_ids,
    put_in_order,
    without_repetitions,
    word_column,
    words_of_ids,
)

_log = logging.getLogger(__name__)

_MAGIC = b"OFFSEG\x00\x03"
_HEAD = struct.Struct("<8sQIII32s")
_ROWS_AT = 64
_PACKS = np.dtype([("name", "V32"), ("whole", "u1")])
_RUN_BYTES = 16
_SUM_BYTES = 8
_BUCKET_SHIFT = 4
"""A bucket holds 16 to 32 rows: one to two KiB, which take a microsecond or two to check."""
_RANGE_ROWS = 1 << 16
"""Rows that merging takes up at a time: some MiB of them."""
_HELD_ROWS = 1 << 17
"""Rows that are held in memory until there are enough of them for a file."""
_GONE = 0xFFFFFFFF

Rows = NDArray[np.intp]


class SegmentRotten(IndexInconsistent):
    """A cached file is not what was written. It has been removed; what it held is to be learnt again."""

    def __init__(self, segment: "Segment") -> None:
        super().__init__(
            f"{segment.path}: the local copy of the index is damaged; it is made anew",
            hint="if it happens again, look at the disk that holds it",
        )
        self.segment = segment


@dataclass(frozen=True, slots=True, eq=False)
class Checks:
    """The checks of a file's buckets, and which have been made."""

    key: bytes
    rows: memoryview
    sums: memoryview
    made: NDArray[np.bool_]
    failed: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """Rows in order, whose `pack` is a position in `packs`. Immutable; safe for several threads.

    `first` holds the first row of each bucket, and the end. `whole` says which packs have all their rows here; `runs`
    are the index runs that need not be read again while this segment exists.
    """

    packs: tuple[str, ...]
    whole: frozenset[str]
    runs: frozenset[str]
    entries: Entries
    first: NDArray[np.uint32]
    path: Path | None = None
    checks: Checks | None = None

    def __len__(self) -> int:
        return len(self.entries)

    @classmethod
    def of(
        cls, packs: Sequence[str], entries: Entries, *, whole: Iterable[str] | None = None, runs: Iterable[str] = ()
    ) -> "Segment":
        """Sort entries in memory; all packs are whole unless said otherwise."""
        names = frozenset(packs if whole is None else whole)
        rows = put_in_order(entries)
        counts = np.bincount(_buckets(key_column(rows), _bits(len(rows))), minlength=1 << _bits(len(rows)))
        return cls(tuple(packs), names, frozenset(runs), rows, _ends(counts))

    @property
    def _bits(self) -> int:
        return (len(self.first) - 1).bit_length() - 1

    def find(self, ids: Ids) -> tuple[Rows, Rows]:
        """Every row of every id: positions in `ids`, and the rows. Raises: SegmentRotten."""
        keys, words = keys_of_ids(ids), words_of_ids(ids)
        buckets = _buckets(keys, self._bits)
        self._check(buckets)
        at, end = self.first[buckets].astype(np.intp), self.first[buckets + 1].astype(np.intp)
        self._halve(keys, at, end.copy())
        own_keys, own_words = key_column(self.entries), word_column(self.entries)
        positions, rows = [np.zeros(0, np.intp)], [np.zeros(0, np.intp)]
        left = np.flatnonzero(at < end)
        while len(left := left[own_keys[at[left]] == keys[left]]):
            same = left[(own_words[at[left]] == words[left]).all(axis=1)]
            positions.append(same)
            rows.append(at[same])
            at[left] += 1
            left = left[at[left] < end[left]]
        return np.concatenate(positions), np.concatenate(rows)

    def _halve(self, keys: Keys, low: Rows, high: Rows) -> None:
        """Move `low` to the first row whose key is not less, for each key, between `low` and `high`."""
        own_keys = key_column(self.entries)
        left = np.flatnonzero(low < high)
        while len(left):
            middle = (low[left] + high[left]) >> 1
            less = own_keys[middle] < keys[left]
            low[left[less]] = middle[less] + 1
            high[left[~less]] = middle[~less]
            left = left[low[left] < high[left]]

    def column(self, name: str, rows: Rows) -> NDArray[np.generic]:
        """A field of some rows. Raises: SegmentRotten."""
        self._check_rows(rows)
        return self.entries[name][rows]

    def rows(self, rows: Rows) -> Entries:
        """Some rows whole. Raises: SegmentRotten."""
        self._check_rows(rows)
        return self.entries[rows]

    def locations(self, rows: Rows) -> list[Location]:
        """Where some rows' chunks lie. Raises: SegmentRotten."""
        return [Location(self.packs[pack], *place) for _, pack, *place in self.rows(rows).tolist()]

    def starts(self, bits: int) -> Rows:
        """Where the ids begin that start with each prefix of so many bits, and the end."""
        keys = np.arange(1 << bits, dtype=np.uint64) << np.uint64(64 - bits) if bits else np.zeros(1, np.uint64)
        buckets = _buckets(keys, self._bits)
        if bits > self._bits:
            self._check(buckets)
        low, high = self.first[buckets].astype(np.intp), self.first[buckets + 1].astype(np.intp)
        if bits > self._bits:
            self._halve(keys, low, high)
        return np.append(low, len(self))

    def between(self, start: int, end: int) -> Entries:
        """Rows in order, as a view. Raises: SegmentRotten."""
        if self.checks and start < end:
            low, high = np.searchsorted(self.first, np.array([start, end - 1], np.uint32), side="right") - 1
            self._check(np.arange(low, high + 1))
        return self.entries[start:end]

    def _check_rows(self, rows: Rows) -> None:
        if self.checks and not self.checks.made.all():
            self._check(np.searchsorted(self.first, rows.astype(np.uint32), side="right") - 1)

    def _check(self, buckets: NDArray[np.integer]) -> None:
        checks = self.checks
        if checks is None:
            return
        new = np.unique(buckets[~checks.made[buckets]])
        places = zip(new.tolist(), self.first[new].tolist(), self.first[new + 1].tolist(), strict=True)
        for bucket, start, end in places:
            rows = checks.rows[start * ENTRY.itemsize : end * ENTRY.itemsize]
            if _sum(checks.key, rows) != checks.sums[bucket * _SUM_BYTES : (bucket + 1) * _SUM_BYTES]:
                checks.failed.append(bucket)
                self.forget()
                raise SegmentRotten(self)
        checks.made[new] = True

    @property
    def rotten(self) -> bool:
        """Whether a check has failed."""
        return bool(self.checks and self.checks.failed)

    def ids_in(self, pack: str) -> Iterator[bytes]:
        """The ids of a pack's rows. Raises: SegmentRotten."""
        number = self.packs.index(pack)
        for start in range(0, len(self), _RANGE_ROWS):
            rows = self.between(start, min(start + _RANGE_ROWS, len(self)))
            yield from rows["id"][rows["pack"] == number].tolist()

    def forget(self) -> None:
        """Remove the cached file; what is mapped stays readable."""
        if self.path:
            with suppress(OSError):
                self.path.unlink()


def _bits(rows: int) -> int:
    return max(0, (rows >> _BUCKET_SHIFT).bit_length() - 1)


def _buckets(keys: Keys, bits: int) -> Rows:
    return (keys >> np.uint64(64 - bits)).astype(np.intp) if bits else np.zeros(len(keys), np.intp)


def _ends(counts: NDArray[np.integer]) -> NDArray[np.uint32]:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.uint32)


def _sum(key: bytes, rows: memoryview) -> bytes:
    return blake3.blake3(rows, key=key).digest(_SUM_BYTES)


# ------------------------------------------------------------------------------------------------ merging


def in_order(segments: Sequence[Segment], numbers: dict[str, int], bits: int | None = None) -> Iterator[Entries]:
    """All rows of several segments, each once, in order and piece by piece: one piece for each prefix of `bits` bits.

    `numbers` are the packs' positions in the result; rows of packs that are not in it are left out.
    Raises: SegmentRotten.
    """
    if bits is None:
        bits = max(0, (sum(map(len, segments)) // _RANGE_ROWS).bit_length())
    starts = [segment.starts(bits) for segment in segments]
    places = [np.array([numbers.get(pack, _GONE) for pack in segment.packs], np.uint32) for segment in segments]
    for piece in range(1 << bits):
        parts: list[Entries] = []
        for segment, start, place in zip(segments, starts, places, strict=True):
            rows = segment.between(int(start[piece]), int(start[piece + 1])).copy()
            if len(rows):
                rows["pack"] = place[rows["pack"]]
                parts.append(rows[rows["pack"] != _GONE])
        if len(parts) > 1:
            parts = [without_repetitions(put_in_order(np.concatenate(parts)))]
        yield parts[0] if parts else np.zeros(0, ENTRY)


@dataclass(frozen=True, slots=True)
class Merger:
    """Joins segments into one: in a file below `folder` whose checks are keyed with `key`, or in memory.

    Memory is bounded when there is a folder: some pieces of rows, and the tables of the buckets.
    """

    folder: Path | None
    key: bytes

    def gather(self, parts: Iterable[Segment], exists: Callable[[str], bool]) -> list[Segment]:
        """Any number of parts, as they come, in few segments; in memory when the local disk takes no more.

        Raises: SegmentRotten.
        """
        done: list[Segment] = []
        held: list[Segment] = []
        room = self.folder is not None
        for part in parts:
            held.append(part)
            if room and sum(map(len, held)) >= _HELD_ROWS:
                try:
                    held = [self.join(held, exists, passing=True)]
                except OSError as error:
                    room = False
                    _log.warning("the index is held in memory: %s", error)
                done, held = done + held, []
        return done + held

    def join(
        self,
        segments: Sequence[Segment],
        exists: Callable[[str], bool],
        *,
        whole: frozenset[str] = frozenset(),
        runs: frozenset[str] = frozenset(),
        passing: bool = False,
    ) -> Segment:
        """One segment of those packs that exist. A `passing` one's file goes with its last user.

        `whole` are packs that have all their rows in the segments together. Raises: SegmentRotten; OSError when the
        file cannot be written.
        """
        names = dict.fromkeys(pack for segment in segments for pack in segment.packs if exists(pack))
        numbers = {pack: number for number, pack in enumerate(names)}
        known = (whole.union(*(segment.whole for segment in segments))) & names.keys()
        if self.folder is None:
            rows = np.concatenate([np.zeros(0, ENTRY), *in_order(segments, numbers)])
            return Segment.of(list(names), rows, whole=known, runs=runs)
        with _File(self.folder, self.key, sum(map(len, segments))) as file:
            for rows in in_order(segments, numbers, max(0, file.range_bits)):
                file.append(rows)
            return file.finish(list(names), known, runs, passing=passing)


class _File:
    """A segment's file being written, locked against being taken for garbage; removed unless it is finished."""

    def __init__(self, folder: Path, key: bytes, rows_at_most: int) -> None:
        self._key = key
        self._bits = _bits(rows_at_most)
        self.range_bits = min(self._bits, max(0, (rows_at_most // _RANGE_ROWS).bit_length()))
        self._path = folder / f"{secrets.token_hex(8)}.new"
        self._file = os.fdopen(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "r+b")
        fcntl.flock(self._file, fcntl.LOCK_EX)
        self._file.seek(_ROWS_AT)
        self._count = 0
        self._pieces = 0
        self._counts: list[NDArray[np.intp]] = []
        self._sums = bytearray()

    def append(self, rows: Entries) -> None:
        """The rows of the next piece of the ids' range."""
        below = self._bits - self.range_bits
        buckets = _buckets(key_column(rows), self._bits) - (self._pieces << below)
        counts = np.bincount(buckets, minlength=1 << below)
        raw = rows.view(np.uint8).data
        ends = (_ends(counts) * np.uint32(ENTRY.itemsize)).tolist()
        self._sums += b"".join(_sum(self._key, raw[start:end]) for start, end in pairwise(ends))
        self._counts.append(counts)
        self._pieces += 1
        self._count += len(rows)
        self._file.write(raw)

    def finish(self, packs: Sequence[str], whole: frozenset[str], runs: frozenset[str], *, passing: bool) -> Segment:
        """Close the file and map it."""
        table = np.zeros(len(packs), _PACKS)
        table["name"] = np.frombuffer(bytes.fromhex("".join(packs)), "V32")
        table["whole"] = [pack in whole for pack in packs]
        names = b"".join(bytes.fromhex(name.rpartition("/")[2]) for name in sorted(runs))
        first = _ends(np.concatenate(self._counts))
        tables = first.tobytes() + self._sums + table.tobytes() + names
        fields = _MAGIC, self._count, self._bits, len(packs), len(runs)
        digest = blake3.blake3(_HEAD.pack(*fields, bytes(32)) + tables, key=self._key).digest()
        self._file.write(tables)
        self._file.seek(0)
        self._file.write(_HEAD.pack(*fields, digest))
        self._file.flush()
        segment = _mapped(self._file.fileno(), None if passing else self._path.with_suffix(".seg"), self._key)
        if segment is None:
            raise OSError(f"{self._path}: does not read back as it was written")
        if segment.path:
            self._path.rename(segment.path)
        return segment

    def __enter__(self) -> "_File":
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(FileNotFoundError):
            self._path.unlink()
        self._file.close()


# ------------------------------------------------------------------------------------------------ files


def load(folder: Path, key: bytes) -> list[Segment]:
    """The cached segments of a folder; what is not whole, or was left by a process that died, is removed."""
    for path in folder.glob("*.new"):
        _sweep(path)
    return [segment for path in sorted(folder.glob("*.seg")) if (segment := _open(path, key))]


def _sweep(path: Path) -> None:
    with suppress(OSError), open(path, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()


def _open(path: Path, key: bytes) -> Segment | None:
    with suppress(OSError):
        with open(path, "rb") as file:
            segment = _mapped(file.fileno(), path, key)
        if segment is None:
            path.unlink()
        return segment
    return None


def _mapped(fd: int, path: Path | None, key: bytes) -> Segment | None:
    """Map an open file; None when its tables are not those that were written. Raises: OSError."""
    size = os.fstat(fd).st_size
    if size < _ROWS_AT:
        return None
    data = memoryview(mmap.mmap(fd, size, prot=mmap.PROT_READ))
    magic, count, bits, packs, runs, digest = fields = _HEAD.unpack_from(data)
    buckets = 1 << bits if bits < 32 else 0
    tables_at = _ROWS_AT + count * ENTRY.itemsize
    sizes = 4 * (buckets + 1), _SUM_BYTES * buckets, packs * _PACKS.itemsize, runs * _RUN_BYTES
    if magic != _MAGIC or not buckets or tables_at + sum(sizes) != size:
        return None
    if blake3.blake3(_HEAD.pack(*fields[:-1], bytes(32)), key=key).update(data[tables_at:]).digest() != digest:
        return None
    first_at, sums_at, packs_at, runs_at = (tables_at + sum(sizes[:table]) for table in range(4))
    table = np.frombuffer(data, _PACKS, packs, packs_at)
    names = _names(table["name"].tobytes(), 32)
    return Segment(
        packs=tuple(names),
        whole=frozenset(name for name, whole in zip(names, table["whole"].tolist(), strict=True) if whole),
        runs=frozenset(f"index/{name}" for name in _names(bytes(data[runs_at:]), _RUN_BYTES)),
        entries=np.frombuffer(data, ENTRY, count, _ROWS_AT),
        first=np.frombuffer(data, "<u4", buckets + 1, first_at),
        path=path,
        checks=Checks(key, data[_ROWS_AT:tables_at], data[sums_at:packs_at], np.zeros(buckets, np.bool_)),
    )


def _names(raw: bytes, each_bytes: int) -> list[str]:
    text, digits = raw.hex(), 2 * each_bytes
    return [text[at : at + digits] for at in range(0, len(text), digits)]
