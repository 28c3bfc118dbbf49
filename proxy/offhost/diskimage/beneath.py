"""Opening files beneath one directory, whatever a descriptor says.

Owns: the walk from a root directory to a plain file: no link is followed, the root is never left, nothing but a
regular file is opened. A descriptor is data that someone else wrote: without this, one that names `/etc/shadow` or
another tenant's disk would have it backed up, and restored to its author (CVE-2022-47951 is of this class).
Does not own: what the files hold.
"""

import errno
import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from offhost.blockio import ReadAt
from offhost.errors import DamagedImage, DiskImageError

Reader = Callable[[int, str], ReadAt]
"""Takes over an open descriptor, and a name for messages: how the bytes of a file are read (cached, direct...)."""


_UNSPEAKABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""What a terminal or a log would choke on: control characters, and bytes that are not UTF-8."""


@dataclass(frozen=True, slots=True)
class PlainFile:
    """A regular file, open for reading, and which one it is."""

    name: PurePosixPath
    """Relative to the root."""
    path: Path
    source: ReadAt
    identity: str
    """Device, inode, size and time of the last change: another file, or a file written to, has another one."""
    place: str = ""
    """Device and inode: another file has another one, one that is written to keeps it."""
    written: str = ""
    """Size, and the times of the last change of content and of anything else; empty for a device, which tells none."""


def resolve(named_in: PurePosixPath, reference: str) -> PurePosixPath:
    """The file, relative to the root, that `reference` in the file `named_in` means.

    Resolved by its letters alone, which is exact because links are not followed.
    Raises: DamagedImage for an absolute name and one that leaves the root.
    """
    if not reference or _UNSPEAKABLE.search(reference):
        raise _refused(named_in, reference, "no file should be called that")
    if reference.startswith("/"):
        raise _refused(named_in, reference, "an absolute name")
    parts = list(named_in.parent.parts)
    for part in reference.split("/"):
        if part == ".." and not parts:
            raise _refused(named_in, reference, "it lies outside of the disk's directory")
        if part == "..":
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return PurePosixPath(*parts)


def _refused(named_in: PurePosixPath, reference: str, why: str) -> DamagedImage:
    return DamagedImage(
        f"{named_in}: names the file {reference!r}, which is refused: {why}",
        hint="a disk may only use files beneath its own directory, or its datastore's; "
        "if its base lies elsewhere, consolidate the disk or copy it beside its base",
    )


class Beneath:
    """A root directory; files beneath it, and nothing else, are opened through it. Owns a descriptor of the root."""

    def __init__(self, root: Path, reader: Reader) -> None:
        self.root = root
        self._reader = reader
        try:
            self._fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise _unopened(root, error) from error

    def open(self, name: PurePosixPath) -> PlainFile:
        """Open a regular file by its name relative to the root.

        Raises: DamagedImage for a name that leaves the root, and when a link, a device or a directory is in its place;
        DiskImageError when there is no such file, or it cannot be opened.
        """
        path = self.root / name
        fd = self._open_walking(name)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise DamagedImage(f"{path}: not a regular file", hint="a disk's data is only read from plain files")
            source = self._reader(fd, str(path))
        except BaseException:
            os.close(fd)
            raise
        place = f"{status.st_dev}:{status.st_ino}"
        return PlainFile(
            name=name,
            path=path,
            source=source,
            identity=f"{place}:{status.st_size}:{status.st_mtime_ns}",
            place=place,
            written=f"{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}",
        )

    def names(self, folder: PurePosixPath) -> list[str]:
        """What lies in a folder, by its name relative to the root; the folder is opened anew, which makes a network
        file system ask whether it has changed. Raises: as `open` does.
        """
        fd = self._open_walking(folder) if folder.parts else os.open(self.root, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.listdir(fd)
        except OSError as error:
            raise _unopened(self.root / folder, error) from error
        finally:
            os.close(fd)

    def _open_walking(self, name: PurePosixPath) -> int:
        """A descriptor of what is called so. Raises: DamagedImage, DiskImageError."""
        if not name.parts or name.is_absolute() or ".." in name.parts:
            raise DamagedImage(f"{name}: does not lie beneath {self.root}")
        try:
            return self._walk(*name.parts)
        except OSError as error:
            raise _unopened(self.root / name, error) from error

    def _walk(self, *parts: str) -> int:
        *folders, last = parts
        at = os.dup(self._fd)
        try:
            for folder in folders:
                below = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
                os.close(at)
                at = below
            # O_NONBLOCK: a FIFO in the file's place must not hold us until somebody writes to it.
            return os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=at)
        finally:
            os.close(at)

    def close(self) -> None:
        """Give the root's descriptor back; files opened stay open."""
        os.close(self._fd)

    def __enter__(self) -> "Beneath":
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()


def _unopened(path: Path, error: OSError) -> DiskImageError:
    """Why a file could not be opened, with the mend."""
    if error.errno == errno.ENOENT:
        return DiskImageError(f"{path}: there is no such file", hint="is the datastore mounted, and the disk complete?")
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return DamagedImage(
            f"{path}: a symbolic link, or not a directory, is on the way to it", hint="links are not followed"
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return DiskImageError(
            f"{path}: permission denied",
            hint="read it as its owner or as root; an NFS export needs no_root_squash or the right uid, "
            "a service user CAP_DAC_READ_SEARCH",
        )
    return DiskImageError(f"{path}: {error.strerror}")
