"""A restore point opened for reading: its disks as ReadAt, its files as bytes.

Does not own: where what is read goes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from offhost.blockio import check_range, clear
from offhost.chunking.spans import SPAN_BYTES
from offhost.errors import NotFound, PackCorrupt
from offhost.extents import Extent, ExtentMap
from offhost.ids import ChunkId
from offhost.repository.chunks.packs import Kind
from offhost.repository.chunks.reading import PackReader
from offhost.repository.points.diskmap import DiskMap
from offhost.repository.points.manifest import Manifest, PointDisk, PointFile

_FILE_LIMIT_BYTES = 64 << 20


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
        return ExtentMap(
            Extent(span * SPAN_BYTES, min((span + 1) * SPAN_BYTES, self.size_bytes))
            for span in range(len(self.map))
            if self.map.leaf(span) is not None
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
        places = self._laid_out(span, start, buffer)
        for chunk, plain in self._reader.read_many(list(places), Kind.CONTENT):
            for at, length in places[chunk]:
                if len(plain) != length:
                    raise PackCorrupt(f"chunk {chunk.hex()[:12]} has {len(plain)} bytes where the map says {length}")
                low, high = max(at, start), min(at + length, end)
                buffer[low - start : high - start] = memoryview(plain)[low - at : high - at]

    def _laid_out(self, span: int, start: int, buffer: memoryview) -> dict[ChunkId, list[tuple[int, int]]]:
        """Where, and how long, the chunks are that a part of a span needs; what is between them is cleared."""
        end, at = start + len(buffer), start
        places: dict[ChunkId, list[tuple[int, int]]] = {}
        for ref in self.map.span(span).overlapping(start, end):
            places.setdefault(ref.id, []).append((ref.start, ref.length))
            clear(buffer[at - start : max(ref.start, at) - start])
            at = ref.start + ref.length
        clear(buffer[min(at, end) - start :])
        return places

    @contextmanager
    def lent(self, offset: int, length: int) -> Iterator[memoryview | None]:
        """One span, whole, in memory that another process has read it into; None where `read_into` does as well."""
        span, start = divmod(offset, SPAN_BYTES)
        with self._reader.hands.lent() as hand:
            if hand is None or start or length < min(SPAN_BYTES, self.size_bytes - offset):
                yield None
                return
            buffer = hand.span[:length]
            self._reader.fill(hand, self._laid_out(span, 0, buffer), Kind.CONTENT)
            yield buffer

    def close(self) -> None:
        """Nothing is held."""


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
