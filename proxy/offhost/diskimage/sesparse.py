"""seSparse: the space-efficient deltas of VMFS6, and of VMFS5 disks beyond 2 TB.

Owns: headers and table entries. VMware has not published the format: this follows qemu's reader (block/vmdk.c), which
was written against real images, its strictness included. An unmapped grain reads as zeros: taking it for one that the
level below holds would bring trimmed data back.
"""

import struct

import numpy as np
from numpy.typing import NDArray

from offhost.blockio import ReadAt
from offhost.diskimage.descriptor import LIMIT_DISK_BYTES, SECTOR_BYTES
from offhost.diskimage.grains import (
    BELOW,
    ZERO,
    GrainMap,
    Places,
    check_tables,
    damaged,
    directory_bytes,
    read_metadata,
)
from offhost.errors import UnsupportedImage

MAGIC = 0x00000000CAFEBABE
_VOLATILE_MAGIC = 0x00000000CAFECAFE
_VERSION = 0x0000000200000001
_HEADER = struct.Struct("<26Q")
_VOLATILE = struct.Struct("<4Q")
_ENTRY = np.dtype("<u8")
_GRAIN_SECTORS = 8
_TABLE_SECTORS = 64
_TABLE_BYTES = _TABLE_SECTORS * SECTOR_BYTES
_GRAIN_BYTES = _GRAIN_SECTORS * SECTOR_BYTES
_LIMIT_SECTOR = LIMIT_DISK_BYTES // SECTOR_BYTES * 2
_OUTSIDE = np.int64(1 << 62)


def sesparse_map(file: ReadAt, size_bytes: int, name: str) -> GrainMap:
    """The grains of a seSparse file that covers `size_bytes` of a disk. Raises: DamagedImage, UnsupportedImage."""
    fields = _HEADER.unpack(read_metadata(file, 0, _HEADER.size, name))
    magic, version, sectors, grain, table, flags = fields[:6]
    if magic != MAGIC:
        raise damaged(name, "not a seSparse file, though its descriptor says so")
    if (version, grain, table, flags) != (_VERSION, _GRAIN_SECTORS, _TABLE_SECTORS, 0) or any(fields[6:10]):
        raise UnsupportedImage(f"{name}: a seSparse file of an unknown version or with unknown flags")
    volatile, directory, directory_sectors, tables_at, grains_at = (fields[at] for at in (10, 16, 17, 18, 24))
    if max(volatile, directory, directory_sectors, tables_at, grains_at) > _LIMIT_SECTOR:
        raise damaged(name, "the header names places outside of the file")
    _check_clean(file, volatile, name)
    needed = -(-size_bytes // (_GRAIN_BYTES * (_TABLE_BYTES // _ENTRY.itemsize)))
    if sectors * SECTOR_BYTES < size_bytes or directory_sectors * SECTOR_BYTES < needed * _ENTRY.itemsize:
        raise damaged(name, f"does not cover the {size_bytes} bytes that its descriptor says")
    length = directory_bytes(needed, _ENTRY.itemsize, name)
    raw = np.frombuffer(read_metadata(file, directory * SECTOR_BYTES, length, name), _ENTRY)
    tables = check_tables(_table_places(raw, tables_at, name), _TABLE_BYTES, file, name)
    return GrainMap(
        name=name,
        file=file,
        size_bytes=size_bytes,
        grain_bytes=_GRAIN_BYTES,
        table_entries=_TABLE_BYTES // _ENTRY.itemsize,
        entry=_ENTRY,
        tables=tables,
        decode=lambda entries: _decode(entries, grains_at * SECTOR_BYTES),
    )


def _check_clean(file: ReadAt, sector: int, name: str) -> None:
    """Raise unless all changes have reached the tables: a journal that must be replayed first is not ours to replay."""
    magic, _free, _sequence, replay = _VOLATILE.unpack(read_metadata(file, sector * SECTOR_BYTES, _VOLATILE.size, name))
    if magic != _VOLATILE_MAGIC:
        raise damaged(name, "the second header is not one")
    if replay:
        raise UnsupportedImage(f"{name}: was not closed cleanly", hint="let ESXi open and close the disk once")


def _table_places(entries: NDArray[np.uint64], tables_at: int, name: str) -> Places:
    """Directory entries to the places of tables: the top half says whether there is one, the lower half which."""
    used = entries != 0
    if np.any(entries[used] >> np.uint64(32) != 0x10000000):
        raise damaged(name, "the grain directory has an entry of an unknown kind")
    places = (entries & np.uint64(0xFFFFFFFF)).astype(np.int64) * _TABLE_BYTES + tables_at * SECTOR_BYTES
    return np.where(used, places, 0)


def _decode(entries: NDArray[np.uint64], grains_at: int) -> Places:
    kind = entries >> np.uint64(60)
    index = ((entries >> np.uint64(48)) & np.uint64(0xFFF)) | ((entries & np.uint64((1 << 48) - 1)) << np.uint64(12))
    near = index < np.uint64(LIMIT_DISK_BYTES // _GRAIN_BYTES * 2)
    places = np.where(near, index, np.uint64(0)).astype(np.int64) * _GRAIN_BYTES + grains_at
    places[~near | (kind > 3) | ((kind == 0) & (entries != 0))] = _OUTSIDE
    places[entries == 0] = BELOW
    places[(kind == 1) | (kind == 2)] = ZERO
    return places
