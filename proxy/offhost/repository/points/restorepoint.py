"""A restore point opened for reading: its disks as ReadAt, its files as bytes.

Does not own: where what is read goes.
"""

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import numpy as np

from offhost.blockio import check_range, clear
from offhost.chunking.spans import SPAN_BYTES, SpanMap
from offhost.chunking.workers import SpanWorkers
from offhost.errors import NotFound, PackCorrupt
from offhost.extents import Extent, ExtentMap
from offhost.ids import ChunkId
from offhost.repository.chunks.packs import Kind
from offhost.repository.chunks.reading import PackReader
from offhost.repository.points.diskmap import DiskMap
from offhost.repository.points.manifest import Manifest, PointDisk, PointFile
from offhost.repository.points.readings import Reading, readings

_FILE_LIMIT_BYTES = 64 << 20

_PART_CHUNKS = 1 << 20
"""A disk is planned by parts of so many chunks, 64 GiB of them: 100 MiB of memory."""
_MAPS_AT_ONCE = 16


class PointDiskReader:
    """A disk of a point as ReadAt: every byte checked twice. Thread-safe.

    Raises, when read: IntegrityError, never wrong bytes.
    """

    def __init__(self, map_: DiskMap, reader: PackReader) -> None:
        self.map = map_
        self._reader = reader

    @property
    def size_bytes(self) -> int:
        """The disk's capacity."""
        return self.map.ref.size_bytes

    def allocated(self) -> ExtentMap:
        """The spans that hold anything."""
        edges = np.flatnonzero(np.diff(self.map.held(), prepend=False, append=False)) * SPAN_BYTES
        return ExtentMap(
            Extent(start, min(end, self.size_bytes))
            for start, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
        )

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the buffer."""
        check_range(offset, len(buffer), self.size_bytes)
        done = 0
        while done < len(buffer):
            span, start = divmod(offset + done, SPAN_BYTES)
            part = buffer[done : done + SPAN_BYTES - start]
            self._read_within(span, start, part)
            done += len(part)

    def _read_within(self, span: int, start: int, buffer: memoryview) -> None:
        """Copy the pieces of a span's chunks that overlap `[start, start + len(buffer))`, and clear what is between."""
        end = start + len(buffer)
        places = _laid_out(self.map.span(span).overlapping(start, end), start, buffer)
        for chunk, plain in self._reader.read_many(list(places), Kind.CONTENT):
            for at, length in places[chunk]:
                if len(plain) != length:
                    raise PackCorrupt(f"chunk {chunk.hex()[:12]} has {len(plain)} bytes where the map says {length}")
                low, high = max(at, start), min(at + length, end)
                buffer[low - start : high - start] = memoryview(plain)[low - at : high - at]

    def parts(self, spans: Iterable[int], workers: SpanWorkers, stop: threading.Event) -> Iterator["DiskPart"]:
        """Parts of the disk in which each chunk is read once, whatever places it has; together they are these spans.

        Each in turn: the next is looked at when the caller has done with the one before. Raises: Stopped.
        """
        maps: dict[int, SpanMap] = {}

        def resolve(span: int) -> None:
            maps[span] = self.map.fresh(span)

        left = iter(spans)
        while some := list(islice(left, _MAPS_AT_ONCE * workers.threads)):
            workers.each(some, resolve, stop)
            if sum(map(len, maps.values())) >= _PART_CHUNKS:
                yield self._part(maps, workers)
                maps.clear()
        if maps:
            yield self._part(maps, workers)

    def _part(self, maps: Mapping[int, SpanMap], workers: SpanWorkers) -> "DiskPart":
        return DiskPart(self._reader, workers, dict(readings(dict(sorted(maps.items())))))

    def close(self) -> None:
        """Nothing is held."""


@dataclass(frozen=True, slots=True)
class DiskPart:
    """Some spans of a disk, planned together. Thread-safe."""

    reader: PackReader
    workers: SpanWorkers
    readings: Mapping[int, Reading]

    @property
    def spans(self) -> Sequence[int]:
        """Ascending."""
        return list(self.readings)

    @contextmanager
    def pieces(self, span: int) -> Iterator[Iterable[tuple[int, memoryview]]]:
        """What is to be written for a span, and where on the disk, here and elsewhere; valid within the scope.

        When all spans of all parts were written, all was that is no hole, each byte once. Raises: IntegrityError, and
        then nothing of the span is given out.
        """
        reading = self.readings[span]
        if not reading.writes:
            yield []
            return
        with self.reader.hands.lent() as hand:
            buffer = hand.span if hand else self.workers.buffer()
            size = int(reading.own.starts[-1]) + int(reading.own.lengths[-1])
            places = _laid_out(reading.own, 0, buffer[:size])
            if hand:
                self.reader.fill(hand, places, Kind.CONTENT)
            else:
                self.reader.read_to(buffer, places, Kind.CONTENT)
            yield [(write.to, buffer[write.low : write.high]) for write in reading.writes]


def _laid_out(entries: SpanMap, start: int, buffer: memoryview) -> dict[ChunkId, list[tuple[int, int]]]:
    """Where, and how long, chunks are of which a span's part needs something; what is between them is cleared."""
    end, at = start + len(buffer), start
    places: dict[ChunkId, list[tuple[int, int]]] = {}
    for ref in entries:
        places.setdefault(ref.id, []).append((ref.start, ref.length))
        clear(buffer[at - start : max(ref.start, at) - start])
        at = ref.start + ref.length
    clear(buffer[min(at, end) - start :])
    return places


@dataclass(frozen=True, slots=True)
class RestorePoint:
    """One point of a repository."""

    manifest: Manifest
    reader: PackReader
    metadata_id_key: bytes

    def map(self, disk: PointDisk) -> DiskMap:
        """A disk's map. Raises: IntegrityError."""
        return DiskMap(disk.map, self.reader, self.metadata_id_key, sound_under=self.manifest.sound_under)

    def choose(self, key: str | None) -> PointDisk:
        """The disk of that key, or the only one. Raises: NotFound, naming the disks there are."""
        disks = self.manifest.disks
        if key is None and len(disks) == 1:
            return disks[0]
        found = self.manifest.disk(key) if key else None
        if found is None:
            names = ", ".join(disk.key for disk in disks) or "none"
            raise NotFound(
                f"point {self.manifest.id[:12]}: which disk? It has {names}", hint="choose one with --disk KEY"
            )
        return found

    def disk(self, key: str | None = None) -> PointDiskReader:
        """A disk's content. Raises: NotFound; IntegrityError."""
        return PointDiskReader(self.map(self.choose(key)), self.reader)

    def file(self, file: PointFile) -> bytes:
        """A small file's content. Raises: IntegrityError."""
        if not 0 <= file.size_bytes <= _FILE_LIMIT_BYTES:
            raise PackCorrupt(f"{file.name}: {file.size_bytes} bytes is not a small file")
        plain = dict(self.reader.read_many(list(dict.fromkeys(file.chunks)), Kind.CONTENT))
        data = b"".join(plain[chunk] for chunk in file.chunks)
        if len(data) != file.size_bytes:
            raise PackCorrupt(f"{file.name}: {len(data)} bytes where its point says {file.size_bytes}")
        return data
