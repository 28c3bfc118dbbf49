"""VMDK files made for tests: the deltas that qemu-img reads but cannot make, and what qemu-img says of any of them."""

import random
import struct
import subprocess
import zlib
from collections.abc import Mapping
from pathlib import Path

SECTOR = 512
COWD_GRAIN = 512
SESPARSE_GRAIN = 4096
ZERO_GRAIN = None

Grains = Mapping[int, bytes | None]
"""Grain number to content; None for a grain that says it is zero."""


def disk_bytes(size_bytes: int, seed: int) -> bytes:
    """A disk with random data, holes and pages of zeros, the same for the same seed."""
    rng = random.Random(seed)
    disk = bytearray(size_bytes)
    at = 0
    while at < size_bytes:
        length = min(rng.choice([512, 4096, 70_000, 300_000]), size_bytes - at)
        if rng.random() < 0.5:
            disk[at : at + length] = rng.randbytes(length)
        at += length
    return bytes(disk)


def describe(
    path: Path,
    extents: list[str],
    *,
    create_type: str = "vmfs",
    cid: str = "11111111",
    parent: tuple[str, str] | None = None,
    more: str = "",
) -> Path:
    """Write a descriptor; `parent` is its CID and its file name."""
    parent_cid, hint = parent or ("ffffffff", "")
    lines = ["# Disk DescriptorFile", "version=1", f"CID={cid}", f"parentCID={parent_cid}"]
    lines += [f'createType="{create_type}"'] + ([f'parentFileNameHint="{hint}"'] if hint else [])
    path.write_text("\n".join([*lines, "", "# Extent description", *extents, "", "#DDB", more, ""]))
    return path


def flat_disk(folder: Path, name: str, content: bytes, **settings: object) -> Path:
    """A flat disk `name`.vmdk, as vSphere keeps it."""
    (folder / f"{name}-flat.vmdk").write_bytes(content)
    line = f'RW {len(content) // SECTOR} VMFS "{name}-flat.vmdk"'
    return describe(folder / f"{name}.vmdk", [line], **settings)  # type: ignore[arg-type]  # passed through as given


def cowd_delta(folder: Path, name: str, size_bytes: int, grains: Grains, *, cid: str, parent: tuple[str, str]) -> Path:
    """A vmfsSparse delta, its grains in a random order in the file, as a guest's writes leave them."""
    table_entries = 4096
    tables = -(-size_bytes // (COWD_GRAIN * table_entries))
    directory_sectors = -(-tables * 4 // SECTOR)
    used = sorted({grain // table_entries for grain in grains})
    table_at = {table: 4 + directory_sectors + i * 32 for i, table in enumerate(used)}
    data_at = 4 + directory_sectors + len(used) * 32
    order = list(grains)
    random.Random(len(order)).shuffle(order)
    place = {grain: data_at + i for i, grain in enumerate(order)}
    directory = [table_at.get(table, 0) for table in range(tables)]
    entries = {table: [0] * table_entries for table in used}
    for grain in grains:
        entries[grain // table_entries][grain % table_entries] = place[grain]
    header = struct.pack("<4s7I", b"COWD", 1, 3, size_bytes // SECTOR, 1, 4, tables, data_at + len(order))
    body = header.ljust(2048, b"\0") + struct.pack(f"<{tables}I", *directory).ljust(directory_sectors * SECTOR, b"\0")
    for table in used:
        body += struct.pack(f"<{table_entries}I", *entries[table])
    body += b"".join(grains[grain] or bytes(COWD_GRAIN) for grain in order)
    (folder / f"{name}-delta.vmdk").write_bytes(body)
    line = f'RW {size_bytes // SECTOR} VMFSSPARSE "{name}-delta.vmdk"'
    return describe(folder / f"{name}.vmdk", [line], create_type="vmfsSparse", cid=cid, parent=parent)


def sesparse_delta(
    folder: Path, name: str, size_bytes: int, grains: Grains, *, cid: str, parent: tuple[str, str]
) -> Path:
    """A seSparse delta; a grain that is None is an unmapped one, or by turns a zero one."""
    table_entries = 4096
    tables = -(-size_bytes // (SESPARSE_GRAIN * table_entries))
    directory_at, directory_sectors = 4, -(-tables * 8 // SECTOR)
    tables_at = directory_at + directory_sectors
    used = sorted({grain // table_entries for grain in grains})
    grains_at = tables_at + len(used) * 64
    order = [grain for grain, content in grains.items() if content is not None]
    random.Random(len(order)).shuffle(order)
    place = {grain: i for i, grain in enumerate(order)}
    entries = {table: [0] * table_entries for table in used}
    for grain, content in grains.items():
        kind = 3 if content is not None else 1 + grain % 2
        index = place.get(grain, 0)
        packed = (kind << 60) | ((index & 0xFFF) << 48) | (index >> 12)
        entries[grain // table_entries][grain % table_entries] = packed
    directory = [(1 << 60) | used.index(table) if table in used else 0 for table in range(tables)]
    fields = [0xCAFEBABE, 0x0000000200000001, size_bytes // SECTOR, 8, 64, 0, 0, 0, 0, 0, 1, 1, 2, 1, 3, 0]
    fields += [directory_at, directory_sectors, tables_at, len(used) * 64, 0, 0, 0, 0, grains_at, len(order) * 8]
    body = struct.pack("<26Q", *fields).ljust(SECTOR, b"\0")
    body += struct.pack("<4Q", 0xCAFECAFE, 0, 0, 0).ljust(3 * SECTOR, b"\0")
    body += struct.pack(f"<{tables}Q", *directory).ljust(directory_sectors * SECTOR, b"\0")
    for table in used:
        body += struct.pack(f"<{table_entries}Q", *entries[table])
    body += b"".join(grains[grain] or b"" for grain in order)
    (folder / f"{name}-sesparse.vmdk").write_bytes(body)
    line = f'RW {size_bytes // SECTOR} SESPARSE "{name}-sesparse.vmdk"'
    return describe(folder / f"{name}.vmdk", [line], create_type="seSparse", cid=cid, parent=parent)


def stream_optimized(path: Path, content: bytes, replaced: Mapping[int, bytes] | None = None) -> Path:
    """A stream as VMware's tools write it: the grain directory at the end, found through the footer.

    `replaced` gives the compressed bytes of some grains instead of honest ones.
    """
    grain_bytes, table_entries, overhead = 65536, 512, 128
    sectors = len(content) // SECTOR
    text = '# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType="streamOptimized"\n'
    text += f'\n# Extent description\nRW {sectors} SPARSE "{path.name}"\n'

    def header(directory: int) -> bytes:
        fields = (b"KDMV", 3, 0x30001, sectors, 128, 1, 20, table_entries, 0, directory, overhead, 0, b"\n \r\n", 1)
        return struct.pack("<4sIIQQQQIQQQB4sH", *fields).ljust(SECTOR, b"\0")

    def marker(size_sectors: int, kind: int) -> bytes:
        return struct.pack("<QII", size_sectors, 0, kind).ljust(SECTOR, b"\0")

    body = bytearray((header(0xFFFFFFFFFFFFFFFF) + text.encode()).ljust(overhead * SECTOR, b"\0"))
    grains = [content[start : start + grain_bytes] for start in range(0, len(content), grain_bytes)]
    entries = [0] * (-(-len(grains) // table_entries) * table_entries)
    for number, grain in enumerate(grains):
        if any(grain):
            entries[number] = len(body) // SECTOR
            packed = (replaced or {}).get(number) or zlib.compress(grain.ljust(grain_bytes, b"\0"))
            body += struct.pack("<QI", number * grain_bytes // SECTOR, len(packed)) + packed
            body += bytes(-len(body) % SECTOR)
    tables: list[int] = []
    for start in range(0, len(entries), table_entries):
        body += marker(4, 1)
        tables.append(len(body) // SECTOR)
        body += struct.pack(f"<{table_entries}I", *entries[start : start + table_entries])
    body += marker(1, 2)
    directory = len(body) // SECTOR
    body += struct.pack(f"<{len(tables)}I", *tables).ljust(-(-len(tables) * 4 // SECTOR) * SECTOR, b"\0")
    body += marker(1, 3) + header(directory) + marker(0, 0)
    path.write_bytes(body)
    return path


def overlay(content: bytes, grains: Grains, grain_bytes: int) -> bytes:
    """What a disk reads as when a delta of these grains lies upon it."""
    disk = bytearray(content)
    for grain, data in grains.items():
        start = grain * grain_bytes
        length = min(grain_bytes, len(disk) - start)
        disk[start : start + length] = (data or bytes(grain_bytes))[:length]
    return bytes(disk)


def random_grains(size_bytes: int, grain_bytes: int, seed: int, *, zeros: bool = False) -> dict[int, bytes | None]:
    """Writes of a guest: runs and single grains, some of them zeroed."""
    rng = random.Random(seed)
    grains: dict[int, bytes | None] = {}
    for _ in range(60):
        start = rng.randrange(size_bytes // grain_bytes)
        for grain in range(start, min(start + rng.choice([1, 1, 3, 200]), size_bytes // grain_bytes)):
            grains[grain] = None if zeros and rng.random() < 0.3 else rng.randbytes(grain_bytes)
    return grains


def qemu_convert(source: Path, target: Path, target_format: str, subformat: str | None = None) -> Path:
    """Have qemu-img write `source` as another format."""
    options = ["-o", f"subformat={subformat}"] if subformat else []
    source_format = "vmdk" if source.suffix == ".vmdk" else "raw"
    command = ["qemu-img", "convert", "-f", source_format, "-O", target_format, *options, str(source), str(target)]
    subprocess.run(command, check=True, capture_output=True)
    return target


def qemu_bytes(disk: Path, folder: Path) -> bytes:
    """The disk as qemu-img reads it."""
    return qemu_convert(disk, folder / "by-qemu.raw", "raw").read_bytes()
