"""Hosted sparse extents: monolithicSparse, twoGbMaxExtentSparse and streamOptimized (magic `KDMV`).

Owns: header, footer, embedded descriptor, table entries, compressed grains ("Virtual Disk Format 5.0", "Hosted Sparse
Extents" and "Stream-Optimized Compressed Sparse Extents").
"""

import struct
import zlib
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from offhost.blockio import ReadAt, check_range, clear, read_bytes
from offhost.diskimage.descriptor import LIMIT_BYTES, LIMIT_DISK_BYTES, SECTOR_BYTES
from offhost.diskimage.grains import (
    BELOW,
    ZERO,
    GrainMap,
    Places,
    SparseExtent,
    check_tables,
    damaged,
    directory_bytes,
    read_metadata,
)
from offhost.diskimage.layers import Piece
from offhost.errors import UnsupportedImage
from offhost.extents import ExtentMap

MAGIC = b"KDMV"
_HEADER = struct.Struct("<4sIIQQQQIQQQB4sH")
_AT_END = 0xFFFFFFFFFFFFFFFF
_LINE_ENDS = b"\n \r\n"
_ZERO_GRAINS, _COMPRESSED, _MARKERS = 0x4, 0x10000, 0x20000
_KNOWN_INCOMPATIBLE = _COMPRESSED | _MARKERS
_DEFLATE = 1
_ENTRY = np.dtype("<u4")
_MARKER = struct.Struct("<QI")
_LIMIT_GRAIN_SECTORS = 4096
_LIMIT_TABLE_ENTRIES = 4096
_LIMIT_SECTOR = LIMIT_DISK_BYTES // SECTOR_BYTES * 2


@dataclass(frozen=True, slots=True)
class _Header:
    flags: int
    sectors: int
    grain_sectors: int
    descriptor: int
    descriptor_sectors: int
    table_entries: int
    directory: int

    @property
    def compressed(self) -> bool:
        return bool(self.flags & _COMPRESSED)


def _parse(raw: bytes, name: str) -> _Header:
    fields = _HEADER.unpack(raw)
    magic, version, flags, sectors, grain, descriptor, descriptor_sectors, entries, _spare, directory = fields[:10]
    line_ends, algorithm = fields[12:14]
    if magic != MAGIC:
        raise damaged(name, "not a sparse VMDK, or its end is missing")
    if version not in (1, 2, 3) or flags & 0xFFFF0000 & ~_KNOWN_INCOMPATIBLE:
        raise UnsupportedImage(f"{name}: a sparse VMDK of version {version} with flags {flags:#x} is not known")
    if line_ends != _LINE_ENDS:
        raise damaged(name, "its line ends were converted by a transfer as text")
    if bool(flags & _COMPRESSED) != (algorithm == _DEFLATE) or bool(flags & _COMPRESSED) != bool(flags & _MARKERS):
        raise UnsupportedImage(f"{name}: compressed in an unknown way (flags {flags:#x}, algorithm {algorithm})")
    if not 0 < sectors <= LIMIT_DISK_BYTES // SECTOR_BYTES or not 0 < entries <= _LIMIT_TABLE_ENTRIES:
        raise damaged(name, f"{sectors} sectors in tables of {entries} grains make no disk")
    if not 0 < grain <= _LIMIT_GRAIN_SECTORS or grain & (grain - 1):
        raise damaged(name, f"a grain of {grain} sectors is not possible")
    if max(descriptor, descriptor_sectors) > _LIMIT_SECTOR or (directory != _AT_END and directory > _LIMIT_SECTOR):
        raise damaged(name, "the header names places outside of the file")
    return _Header(
        flags=flags,
        sectors=sectors,
        grain_sectors=grain,
        descriptor=descriptor,
        descriptor_sectors=descriptor_sectors,
        table_entries=entries,
        directory=directory,
    )


def _header(file: ReadAt, name: str) -> _Header:
    """The header; of a stream the footer, which was written when the directory's place was known."""
    header = _parse(read_metadata(file, 0, _HEADER.size, name), name)
    if header.directory != _AT_END:
        return header
    footer = _parse(read_metadata(file, max(0, file.size_bytes - 2 * SECTOR_BYTES), _HEADER.size, name), name)
    if footer.directory == _AT_END or (footer.sectors, footer.grain_sectors) != (header.sectors, header.grain_sectors):
        raise damaged(name, "header and footer contradict each other")
    return footer


def embedded_descriptor(file: ReadAt, name: str) -> bytes:
    """The descriptor inside a sparse VMDK. Raises: UnsupportedImage when there is none."""
    header = _parse(read_metadata(file, 0, _HEADER.size, name), name)
    content = b""
    if header.descriptor and header.descriptor_sectors:
        length = min(header.descriptor_sectors * SECTOR_BYTES, LIMIT_BYTES)
        content = read_metadata(file, header.descriptor * SECTOR_BYTES, length, name)
    if not any(content):  # qemu leaves room for one in each file of a disk in several
        raise UnsupportedImage(f"{name}: an extent of a disk, not a disk", hint="name the disk's descriptor instead")
    return content


def hosted_piece(file: ReadAt, size_bytes: int, below: ReadAt, name: str) -> Piece:
    """A sparse file as the piece of a disk that it covers. Raises: DamagedImage, UnsupportedImage."""
    header = _header(file, name)
    if header.sectors * SECTOR_BYTES < size_bytes:
        raise damaged(name, f"holds {header.sectors} sectors, the descriptor says {size_bytes // SECTOR_BYTES}")
    grains = _grain_map(file, header, size_bytes, name)
    return CompressedExtent(grains, below) if header.compressed else SparseExtent(grains, below)


def _grain_map(file: ReadAt, header: _Header, size_bytes: int, name: str) -> GrainMap:
    grain_bytes = header.grain_sectors * SECTOR_BYTES
    needed = -(-size_bytes // (grain_bytes * header.table_entries))
    length = directory_bytes(needed, _ENTRY.itemsize, name)
    raw = np.frombuffer(read_metadata(file, header.directory * SECTOR_BYTES, length, name), _ENTRY)
    return GrainMap(
        name=name,
        file=file,
        size_bytes=size_bytes,
        grain_bytes=grain_bytes,
        table_entries=header.table_entries,
        entry=_ENTRY,
        tables=check_tables(raw.astype(np.int64) * SECTOR_BYTES, header.table_entries * _ENTRY.itemsize, file, name),
        decode=partial(_decode, zero_grains=bool(header.flags & _ZERO_GRAINS)),
    )


def _decode(entries: NDArray[np.uint64], *, zero_grains: bool) -> Places:
    places = entries.astype(np.int64) * SECTOR_BYTES
    places[entries == 0] = BELOW
    if zero_grains:
        places[entries == 1] = ZERO
    return places


class CompressedExtent:
    """A piece of a disk whose grains are zlib streams, each behind a marker that says which grain it is."""

    def __init__(self, grains: GrainMap, below: ReadAt) -> None:
        self._map, self._below = grains, below

    @property
    def size_bytes(self) -> int:
        """Bytes of the disk that it covers."""
        return self._map.size_bytes

    def allocated(self) -> ExtentMap:
        """What the file holds."""
        return self._map.allocated()

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the buffer, grain by grain."""
        check_range(offset, len(buffer), self.size_bytes)
        grain = self._map.grain_bytes
        first = offset // grain
        places = self._map.locate(first, -(-(offset + len(buffer)) // grain) - first)
        for at, place in enumerate(places.tolist(), start=first):
            low, high = max(at * grain, offset), min((at + 1) * grain, offset + len(buffer))
            target = buffer[low - offset : high - offset]
            if place == ZERO:
                clear(target)
            elif place == BELOW:
                self._below.read_into(low, target)
            else:
                target[:] = self._inflate(at, place, high - at * grain)[low - at * grain : high - at * grain]

    def _inflate(self, grain: int, place: int, wanted_bytes: int) -> bytes:
        """At least the first `wanted_bytes` of a grain; never more than a grain, whatever the stream holds."""
        size, end = self._map.grain_bytes, self._map.file.size_bytes
        raw = read_bytes(self._map.file, place, min(_MARKER.size + _most_compressed(size), end - place))
        if len(raw) >= _MARKER.size:
            sector, length = _MARKER.unpack_from(raw)
            if sector * SECTOR_BYTES == grain * size and 0 < length <= len(raw) - _MARKER.size:
                plain = _decompressed(raw[_MARKER.size : _MARKER.size + length], size)
                if wanted_bytes <= len(plain) <= size:
                    return plain
        raise damaged(self._map.name, f"grain {grain} at byte {place} does not inflate to what it should be")


def _most_compressed(grain_bytes: int) -> int:
    """More than deflate makes of a grain that it cannot compress."""
    return grain_bytes + grain_bytes // 64 + 128


def _decompressed(stream: bytes, limit_bytes: int) -> bytes:
    try:
        inflate = zlib.decompressobj()
        plain = inflate.decompress(stream, limit_bytes + 1)
    except zlib.error:
        return b""
    # A stream that ends early has not been held against its checksum.
    return plain if inflate.eof else b""
