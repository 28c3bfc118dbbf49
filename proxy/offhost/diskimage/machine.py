"""What a VM's folder says of its machine: who it is, whether it runs, and the small files it consists of.

Owns: the identity in a .vmx, the signs of a running VM, the choice of files that are kept beside the disks.
Does not own: which files are disks (folder), reading disks (image).
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from offhost.blockio import FileReadAt, read_bytes
from offhost.diskimage.beneath import Beneath
from offhost.diskimage.folder import file_names, parse_vmx
from offhost.errors import DiskImageError, OffhostError, UnsupportedImage
from offhost.printable import printable

_LIMIT_VMX_BYTES = 4 << 20
_LIMIT_FILE_BYTES = 16 << 20
_LIMIT_ALL_BYTES = 64 << 20
_LIMIT_NAME = 200
_SWAP = (".vswp",)
_SUSPENDED = (".vmss",)
_DISKS = (".vmdk",)
_ROOT = PurePosixPath()

IdentifiedBy = Literal["vc.uuid", "uuid.bios", "path"]


@dataclass(frozen=True, slots=True)
class Machine:
    """A VM as its folder tells of it."""

    path: Path
    name: str
    """Its displayName; the folder's name where it has none."""
    vmx: str | None
    """The .vmx's file name; None for a folder of disks alone."""
    identified_by: IdentifiedBy
    identity: str
    """The UUID that vCenter gave it, which a clone does not share; else that of its BIOS; else the folder's path."""


@dataclass(frozen=True, slots=True)
class SmallFiles:
    """What lies beside the disks."""

    contents: Mapping[str, bytes]
    left_out: tuple[str, ...]
    """Which files are too large to be kept with a restore point, or could not be read, and why."""


def machine(path: Path) -> Machine:
    """Who lies in a folder.

    Raises: UnsupportedImage for several VMs, or an encrypted one, whose disks would be read as ciphertext; NotFound,
    DamagedImage, DiskImageError.
    """
    path = path.resolve()
    found = [name for name in file_names(path) if name.lower().endswith(".vmx")]
    if len(found) > 1:
        raise UnsupportedImage(
            f"{path}: holds several VMs: {', '.join(found)}", hint="give each VM a folder, and a job, of its own"
        )
    settings = parse_vmx(_content(path, found[0], _LIMIT_VMX_BYTES)) if found else {}
    if any(key.startswith(("encryption.", "encryptedvm.")) for key in settings):
        raise UnsupportedImage(
            f"{path}: the VM is encrypted: its disks would be read as ciphertext",
            hint="back it up through vCenter, by a transport that delivers clear data",
        )
    name = _plain(settings.get("displayname", "")) or path.name
    by, identity = next(_identities(settings), ("path", str(path)))
    return Machine(path, name, found[0] if found else None, by, identity)


def _identities(settings: Mapping[str, str]) -> Iterator[tuple[IdentifiedBy, str]]:
    keys: tuple[IdentifiedBy, ...] = ("vc.uuid", "uuid.bios")
    for key in keys:
        uuid = _uuid(settings.get(key, ""))
        if uuid:
            yield key, uuid


def _uuid(written: str) -> str | None:
    """A UUID as a .vmx has it, `50 2a … 1b-9c …`, in its usual form; None for none, and for one of zeros alone."""
    digits = re.sub(r"[ -]", "", written.lower())
    if not re.fullmatch(r"[0-9a-f]{32}", digits) or not digits.strip("0"):
        return None
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def _plain(name: str) -> str:
    """A name that can be printed and stored: a .vmx holds any bytes."""
    return printable(name.encode("utf-8", "replace").decode())[:_LIMIT_NAME].strip()


def signs_of_running(path: Path) -> list[str]:
    """The files that show, or may show, that somebody has the VM open: the locks that ESX keeps on NFS (`.lck-…`) and
    other products beside each file (`….lck`), the swap file that a running VM has, and the memory of a suspended one
    (`.vmss`), in which its guest's unwritten data lies.

    On VMFS, ESX locks without a file: that there is none proves nothing there. Raises: DiskImageError.
    """
    with Beneath(path, FileReadAt) as beneath:
        names = beneath.names(_ROOT)
    return sorted(
        printable(name)
        for name in names
        if name.startswith(".lck-") or name.lower().endswith((".lck", *_SWAP, *_SUSPENDED))
    )


def small_files(path: Path) -> SmallFiles:
    """Every plain file of a folder that is neither a disk, nor swap, nor a lock: configuration, NVRAM, logs, snapshot
    lists. A file that is too large for a restore point is told instead.
    """
    contents: dict[str, bytes] = {}
    left_out: list[str] = []
    room = _LIMIT_ALL_BYTES
    for name in filter(_is_kept, file_names(path)):
        try:
            content = _content(path, name, min(room, _LIMIT_FILE_BYTES))
        except OffhostError as error:
            left_out.append(f"{printable(name)} is not kept with the restore point: {error}")
            continue
        contents[printable(name)] = content
        room -= len(content)
    return SmallFiles(contents, tuple(left_out))


def _is_kept(name: str) -> bool:
    return not name.startswith(".lck-") and not name.lower().endswith((*_DISKS, *_SWAP, ".lck"))


def _content(path: Path, name: str, limit_bytes: int) -> bytes:
    with Beneath(path, FileReadAt) as beneath:
        file = beneath.open(PurePosixPath(name))
        try:
            if file.source.size_bytes > limit_bytes:
                raise DiskImageError(f"{file.path}: {file.source.size_bytes} bytes are too many")
            return read_bytes(file.source, 0, file.source.size_bytes)
        finally:
            file.source.close()
