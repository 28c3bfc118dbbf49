"""vmfsSparse: the copy-on-write deltas of VMFS5 and NFS (magic `COWD`).

Owns: header and table entries ("Virtual Disk Format 5.0", "ESX Server Sparse Extents"; checked against qemu's reader).
"""

import struct

import numpy as np
from numpy.typing import NDArray

from offhost.blockio import ReadAt
from offhost.diskimage.descriptor import SECTOR_BYTES
from offhost.diskimage.grains import BELOW, GrainMap, Places, check_tables, damaged, directory_bytes, read_metadata
from offhost.errors import UnsupportedImage

MAGIC = b"COWD"
_HEADER = struct.Struct("<4s7I")
_TABLE_ENTRIES = 4096
_ENTRY = np.dtype("<u4")
_LIMIT_GRAIN_SECTORS = 4096


def cowd_map(file: ReadAt, size_bytes: int, name: str) -> GrainMap:
    """The grains of a vmfsSparse file that covers `size_bytes` of a disk. Raises: DamagedImage, UnsupportedImage."""
    header = read_metadata(file, 0, _HEADER.size, name)
    magic, version, _flags, sectors, grain_sectors, directory, entries, _next_free = _HEADER.unpack(header)
    if magic != MAGIC:
        raise damaged(name, "not a vmfsSparse file, though its descriptor says so")
    if version != 1:
        raise UnsupportedImage(f"{name}: vmfsSparse version {version} is not known")
    if not 0 < grain_sectors <= _LIMIT_GRAIN_SECTORS or sectors * SECTOR_BYTES < size_bytes or not directory:
        raise damaged(name, "the header contradicts the descriptor or itself")
    needed = -(-size_bytes // (grain_sectors * SECTOR_BYTES * _TABLE_ENTRIES))
    if entries < needed:
        raise damaged(name, f"a directory of {entries} entries does not cover {size_bytes} bytes")
    length = directory_bytes(needed, _ENTRY.itemsize, name)
    raw = np.frombuffer(read_metadata(file, directory * SECTOR_BYTES, length, name), _ENTRY)
    tables = check_tables(raw.astype(np.int64) * SECTOR_BYTES, _TABLE_ENTRIES * _ENTRY.itemsize, file, name)
    return GrainMap(
        name=name,
        file=file,
        size_bytes=size_bytes,
        grain_bytes=grain_sectors * SECTOR_BYTES,
        table_entries=_TABLE_ENTRIES,
        entry=_ENTRY,
        tables=tables,
        decode=_decode,
    )


def _decode(entries: NDArray[np.uint64]) -> Places:
    places = entries.astype(np.int64) * SECTOR_BYTES
    places[entries == 0] = BELOW
    return places
