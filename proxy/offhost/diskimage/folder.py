"""A VM's folder: which of its files are disks, and what else belongs to the machine.

Owns: the choice of disks, from the .vmx where there is one. Does not own: reading disks (image).
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from offhost.blockio import FileReadAt, read_bytes
from offhost.diskimage.beneath import Beneath, resolve
from offhost.diskimage.image import DiskImage, is_raw_name, open_disk
from offhost.errors import DamagedImage, DiskImageError, NotFound, UnsupportedImage
from offhost.ids import DiskKey

_LIMIT_SIDE_FILE_BYTES = 4 << 20
_LIMIT_FILES = 10_000
_SIDE_FILES = (".vmx", ".nvram")
_DISK_FILE = re.compile(r"((?:scsi|sata|nvme|ide)\d{1,2}:\d{1,3})\.filename")


@dataclass(frozen=True, slots=True)
class FolderImage:
    """The disks of one machine, and the small files beside them. Owns the disks."""

    disks: Mapping[DiskKey, DiskImage]
    """By controller and unit where a .vmx says them, `scsi0:0`; else `disk0`, `disk1`... in the order of names."""
    side_files: Mapping[str, bytes]
    """The .vmx and the nvram by file name."""

    def close(self) -> None:
        """Close every disk."""
        for disk in self.disks.values():
            disk.close()

    def __enter__(self) -> "FolderImage":
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()


def open_image(path: Path) -> FolderImage:
    """Open what an operator names: a VM's folder, or one disk, which is then `disk0`.

    Raises: NotFound, UnsupportedImage, DamagedImage, DiskImageError.
    """
    if path.is_dir():
        return open_folder(path)
    return FolderImage(disks={DiskKey("disk0"): open_disk(path)}, side_files={})


def open_folder(path: Path) -> FolderImage:
    """Open a folder with one .vmx and its disks, or with disks alone: those that no other one stands on.

    Raises: NotFound when there is no disk; UnsupportedImage for a folder of several VMs; as `open_disk` does.
    """
    path = path.resolve()
    names = file_names(path)
    configurations = [name for name in names if name.lower().endswith(".vmx")]
    if len(configurations) > 1:
        raise UnsupportedImage(
            f"{path}: holds several VMs: {', '.join(configurations)}",
            hint="give each VM a folder of its own, or name one disk",
        )
    side_files = _side_files(path, names)
    with ExitStack() as undo:
        disks: dict[DiskKey, DiskImage] = {}
        chosen = _disks_of_vmx(path / configurations[0], side_files) if configurations else _topmost(path, names)
        for key, name in chosen:
            disks[key] = undo.enter_context(open_disk(path / name, path))
        if not disks:
            raise NotFound(f"{path}: holds no disk", hint="name a folder with .vmdk files, or one raw image")
        undo.pop_all()
    return FolderImage(disks=disks, side_files=side_files)


def file_names(path: Path) -> list[str]:
    """The plain files of a folder, in the order of their names. Raises: DiskImageError, UnsupportedImage."""
    try:
        names = sorted(entry.name for entry in os.scandir(path) if entry.is_file(follow_symlinks=False))
    except OSError as error:
        raise DiskImageError(
            f"{path}: {error.strerror}", hint="is the datastore mounted, and may this user read it?"
        ) from error
    if len(names) > _LIMIT_FILES:
        raise UnsupportedImage(f"{path}: {len(names)} files are not those of one VM")
    return names


def _side_files(path: Path, names: list[str]) -> dict[str, bytes]:
    contents: dict[str, bytes] = {}
    with Beneath(path, FileReadAt) as beneath:
        for name in (name for name in names if name.lower().endswith(_SIDE_FILES)):
            file = beneath.open(PurePosixPath(name))
            try:
                if file.source.size_bytes > _LIMIT_SIDE_FILE_BYTES:
                    raise DamagedImage(f"{file.path}: {file.source.size_bytes} bytes are no VM's configuration")
                contents[name] = read_bytes(file.source, 0, file.source.size_bytes)
            finally:
                file.source.close()
    return contents


def parse_vmx(content: bytes) -> dict[str, str]:
    """The settings of a .vmx, their keys in lower case; lines that are none are left out, as VMware does."""
    text = content.decode("utf-8", "surrogateescape")
    settings: dict[str, str] = {}
    for line in text.splitlines():
        key, equals, value = line.partition("=")
        key = key.strip().lower()
        if equals and key and not key.startswith("#"):
            settings[key] = value.strip().removeprefix('"').removesuffix('"')
    return settings


def _disks_of_vmx(vmx: Path, side_files: Mapping[str, bytes]) -> Iterator[tuple[DiskKey, PurePosixPath]]:
    """The disks that the configuration connects, with the files it names for them."""
    settings = parse_vmx(side_files[vmx.name])
    for key, value in settings.items():
        match = _DISK_FILE.fullmatch(key)
        if not match or not value.lower().endswith(".vmdk"):
            continue
        unit = match[1]
        connected = settings.get(f"{unit}.present", "TRUE").upper() == "TRUE"
        if connected and not settings.get(f"{unit}.devicetype", "").lower().startswith("cdrom"):
            yield DiskKey(unit), resolve(PurePosixPath(vmx.name), value)


def _topmost(path: Path, names: list[str]) -> Iterator[tuple[DiskKey, PurePosixPath]]:
    """The disks that are neither an extent nor the base of another one.

    Small files, which descriptors are, come first: what they name as an extent is not looked into by itself, since a
    guest may have written there what looks like a disk. Raises: UnsupportedImage for a file that belongs to no disk.
    """
    disks = [name for name in names if name.lower().endswith(".vmdk") and not name.lower().endswith("-ctk.vmdk")]
    used: set[str] = set()
    opened: list[str] = []
    for name in sorted(disks, key=lambda name: (is_raw_name(name), (path / name).stat().st_size)):
        if name in used:
            continue
        if is_raw_name(name):
            raise UnsupportedImage(
                f"{path / name}: no descriptor names it", hint="put its descriptor back, or move it elsewhere"
            )
        with open_disk(path / name, path) as disk:
            used.update(str(file.relative_to(path)) for file in disk.files if file.name != name)
        opened.append(name)
    tops = sorted(set(opened) - used)
    for number, top in enumerate(tops):
        yield DiskKey(f"disk{number}"), PurePosixPath(top)
