"""The text that describes a VMDK: what it says, read with suspicion; and the text of a new one.

Owns: the grammar of descriptors (VMware's "Virtual Disk Format 5.0"; extents, CIDs, the disk database).
Does not own: whether the files it names may be opened (beneath), what they hold (flat and sparse extents).
"""

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from offhost.errors import DamagedImage, UnsupportedImage

SECTOR_BYTES = 512
LIMIT_BYTES = 64 * 1024
"""The largest descriptor that is read; real ones stay below 20 KiB."""
_LIMIT_EXTENTS = 1024
LIMIT_DISK_BYTES = 64 << 40
"""The largest disk: vSphere's own limit is 62 TB."""

_FIRST_LINE = b"# disk descriptor"
_NO_PARENT = "ffffffff"
_EXTENT = re.compile(
    r"(?P<access>RW|RDONLY|NOACCESS)\s+(?P<sectors>\d{1,18})\s+(?P<kind>[A-Za-z]{1,16})"
    r'(?:\s+"(?P<file>[^"]*)"(?:\s+(?P<start>\d{1,18}))?)?(?:\s.*)?'
)
_FLAT_KINDS = frozenset({"FLAT", "VMFS", "ZERO"})
_DELTA_KINDS = frozenset({"VMFSSPARSE", "SESPARSE"})
_KINDS = _FLAT_KINDS | _DELTA_KINDS | {"SPARSE"}
_ONCE = frozenset({"cid", "parentcid", "createtype", "parentfilenamehint"})


@dataclass(frozen=True, slots=True)
class ExtentLine:
    """A piece of the disk, and the file that holds it; an extent of kind ZERO has none."""

    kind: str
    size_bytes: int
    file: str
    start_bytes: int
    """Where in a flat file the piece begins."""


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What a descriptor says. Its extents follow each other from byte 0 of the disk."""

    create_type: str
    cid: str
    """Content id, eight hexadecimal digits: changes when the disk is first written to after it was opened."""
    parent_cid: str | None
    """The content id that the parent had when this delta was made; None for a disk without a parent."""
    parent_hint: str
    extents: tuple[ExtentLine, ...]
    database: Mapping[str, str]
    """The `ddb.` entries, without the prefix."""

    @property
    def size_bytes(self) -> int:
        """The disk's capacity."""
        return sum(extent.size_bytes for extent in self.extents)

    @property
    def uuid(self) -> str | None:
        """The disk's UUID as 32 lower-case hexadecimal digits, where it has one."""
        digits = re.sub(r"[^0-9a-f]", "", self.database.get("uuid", "").lower())
        return digits if len(digits) == 32 else None

    @property
    def structure(self) -> str:
        """All that decides which bytes of which files make the disk, for comparing."""
        extents = ",".join(f"{line.kind} {line.size_bytes} {line.file!r} {line.start_bytes}" for line in self.extents)
        return f"{self.cid}<{self.parent_cid or ''}:{self.parent_hint!r}[{extents}]"


def _damaged(name: str, what: str) -> DamagedImage:
    return DamagedImage(f"{name}: {what}", hint="the descriptor is damaged: copy it again from the datastore")


def is_descriptor(head: bytes) -> bool:
    """Whether a file that begins so is a descriptor."""
    return head[: len(_FIRST_LINE)].lower() == _FIRST_LINE


def parse_descriptor(content: bytes, name: str) -> Descriptor:
    """Read a descriptor; `name` is the file's, for messages.

    Raises: DamagedImage for one that contradicts itself, UnsupportedImage for disks that are not files.
    """
    if not is_descriptor(content) or len(content) > LIMIT_BYTES:
        raise _damaged(name, "not a VMDK descriptor")
    # An embedded descriptor is padded with zeros. File names are bytes to Linux: what is not UTF-8 passes unchanged.
    text = content.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
    settings: dict[str, str] = {}
    extents: list[ExtentLine] = []
    for line in (line.strip() for line in text.split("\n")):
        if not line or line.startswith("#"):
            continue
        if line.split(maxsplit=1)[0] in ("RW", "RDONLY", "NOACCESS"):
            extents.append(_extent(line, name))
        else:
            _setting(line, settings, name)
    return _checked(_assembled(settings, extents, name), settings, name)


def _setting(line: str, settings: dict[str, str], name: str) -> None:
    key, equals, value = line.partition("=")
    key = key.strip().lower()
    if not equals:
        raise _damaged(name, f"the line {line[:80]!r} is neither an extent nor a setting")
    if key in settings and key in _ONCE:
        raise _damaged(name, f"says {key} twice")
    settings[key] = value.strip().strip('"')


def _extent(line: str, name: str) -> ExtentLine:
    match = _EXTENT.fullmatch(line)
    if not match:
        raise _damaged(name, f"the extent {line[:80]!r} cannot be read")
    kind = match["kind"].upper()
    if kind not in _KINDS or match["access"] == "NOACCESS":
        raise UnsupportedImage(
            f"{name}: has an extent of kind {match['access']} {kind}, which is not a file that can be read",
            hint="raw device mappings and physical disks are backed up inside the guest",
        )
    sectors, start = int(match["sectors"]), int(match["start"] or 0)
    if not 0 < sectors * SECTOR_BYTES <= LIMIT_DISK_BYTES or start * SECTOR_BYTES > LIMIT_DISK_BYTES:
        raise _damaged(name, f"the extent {line[:80]!r} is larger than any disk, or empty")
    if kind != "ZERO" and not match["file"]:
        raise _damaged(name, f"the extent {line[:80]!r} names no file")
    if start and kind not in _FLAT_KINDS:
        raise _damaged(name, f"the sparse extent {line[:80]!r} begins inside its file")
    return ExtentLine(
        kind=kind, size_bytes=sectors * SECTOR_BYTES, file=match["file"] or "", start_bytes=start * SECTOR_BYTES
    )


def _assembled(settings: dict[str, str], extents: list[ExtentLine], name: str) -> Descriptor:
    for key in ("cid", "parentcid", "createtype"):
        if key not in settings:
            raise _damaged(name, f"the descriptor has no {key}")
    parent_cid = _cid(settings["parentcid"], name)
    return Descriptor(
        create_type=settings["createtype"],
        cid=_cid(settings["cid"], name),
        parent_cid=None if parent_cid == _NO_PARENT else parent_cid,
        parent_hint=settings.get("parentfilenamehint", ""),
        extents=tuple(extents),
        database={key.removeprefix("ddb."): value for key, value in settings.items() if key.startswith("ddb.")},
    )


def _cid(text: str, name: str) -> str:
    if not re.fullmatch(r"[0-9a-fA-F]{1,8}", text):
        raise _damaged(name, f"{text[:40]!r} is not a content id")
    return text.lower().rjust(8, "0")


def _checked(descriptor: Descriptor, settings: Mapping[str, str], name: str) -> Descriptor:
    """The descriptor, when it agrees with itself and its kind can be read from files."""
    if "vmcrypt" in descriptor.database.get("iofilters", ""):
        raise UnsupportedImage(f"{name}: the disk is encrypted", hint="use a transport that delivers clear data")
    if settings.get("isnativesnapshot", "no").lower() == "yes":
        raise UnsupportedImage(f"{name}: the delta is a snapshot of the storage array", hint="use another transport")
    if not 0 < len(descriptor.extents) <= _LIMIT_EXTENTS or descriptor.size_bytes > LIMIT_DISK_BYTES:
        raise _damaged(name, f"{len(descriptor.extents)} extents of {descriptor.size_bytes} bytes make no disk")
    kinds = {extent.kind for extent in descriptor.extents}
    if descriptor.parent_cid is None and (kinds & _DELTA_KINDS or descriptor.parent_hint):
        raise _damaged(name, "is a delta, but says that it has no parent")
    if descriptor.parent_cid is not None and not descriptor.parent_hint:
        raise _damaged(name, "has a parent, but does not name it")
    if descriptor.parent_cid is not None and kinds & _FLAT_KINDS:
        raise UnsupportedImage(f"{name}: has a parent though its extents are whole", hint="use another transport")
    return descriptor


def flat_descriptor(
    name: str,
    size_bytes: int,
    *,
    adapter: str = "lsilogic",
    hardware_version: int = 13,
    thin: bool = True,
) -> str:
    """The descriptor of a new disk `name` whose bytes lie in `name`'s flat file beside it (`flat_name`).

    `name` is a plain file name that ends in `.vmdk`; the size is in whole sectors; `adapter` is `ide`, `buslogic` or
    `lsilogic` (which vSphere writes for SATA, NVMe and paravirtual controllers, too). Raises: ValueError.
    """
    if size_bytes <= 0 or size_bytes % SECTOR_BYTES:
        raise ValueError(f"a disk of {size_bytes} bytes is not made of sectors")
    cylinders, heads, sectors = _geometry(size_bytes, adapter)
    cid = f"{secrets.randbelow(0xFFFFFFFE):08x}"
    database = {
        "adapterType": adapter,
        "geometry.cylinders": cylinders,
        "geometry.heads": heads,
        "geometry.sectors": sectors,
        "longContentID": secrets.token_hex(12) + cid,
        "virtualHWVersion": hardware_version,
    } | ({"thinProvisioned": 1} if thin else {})
    lines = [
        "# Disk DescriptorFile",
        "version=1",
        'encoding="UTF-8"',
        f"CID={cid}",
        f"parentCID={_NO_PARENT}",
        'createType="vmfs"',
        "",
        "# Extent description",
        f'RW {size_bytes // SECTOR_BYTES} VMFS "{flat_name(name)}"',
        "",
        "# The Disk Data Base",
        "#DDB",
        "",
        *(f'ddb.{key} = "{value}"' for key, value in database.items()),
    ]
    return "\n".join(lines) + "\n"


def flat_name(name: str) -> str:
    """The file that holds the bytes of disk `name`, `web-flat.vmdk` for `web.vmdk`. Raises: ValueError."""
    if not re.fullmatch(r'[^/"\x00-\x1f]{1,240}\.vmdk', name) or name.startswith("."):
        raise ValueError(f"{name!r} is not a name for a disk")
    return f"{name.removesuffix('.vmdk')}-flat.vmdk"


def _geometry(size_bytes: int, adapter: str) -> tuple[int, int, int]:
    """Cylinders, heads and sectors as VMware chooses them ("Virtual Disk Format 5.0", "The Disk Database")."""
    if adapter == "ide":
        heads, sectors, most = 16, 63, 16383
    elif size_bytes < 1 << 30:
        heads, sectors, most = 64, 32, 65535
    elif size_bytes < 2 << 30:
        heads, sectors, most = 128, 32, 65535
    else:
        heads, sectors, most = 255, 63, LIMIT_DISK_BYTES
    return max(1, min(size_bytes // (heads * sectors * SECTOR_BYTES), most)), heads, sectors
