"""The one seam of the data path: a disk as something read, or written, at an offset.

Owns: `ReadAt` and `WriteAt`, and the two over a plain file descriptor. Does not own: formats, transports.
Everything here is synchronous and safe to call from several threads at once: callers hop to a thread per span.
"""

import errno
import os
from pathlib import Path
from typing import Protocol

import numpy as np

from offhost.errors import DamagedImage, ReadFailed
from offhost.extents import Extent, ExtentMap

_IOV_BYTES = 1 << 30


class ReadAt(Protocol):
    """A disk, or a file, of fixed size."""

    @property
    def size_bytes(self) -> int:
        """Bytes that can be read."""
        ...

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the whole writable buffer with the bytes at `offset`.

        Raises: ReadFailed when the bytes cannot be had; ValueError when the range leaves the disk.
        """
        ...

    def allocated(self) -> ExtentMap:
        """A superset of the bytes that are not zero: what lies outside need not be read, and reads as zeros."""
        ...

    def close(self) -> None:
        """Give back what is held; idempotent."""
        ...


class WriteAt(Protocol):
    """A disk that is being written."""

    @property
    def size_bytes(self) -> int:
        """Bytes that can be written."""
        ...

    def write_at(self, offset: int, data: bytes | memoryview) -> None:
        """Write all of `data` at `offset`."""
        ...

    def sync(self) -> None:
        """Return only when everything written is durable."""
        ...

    def close(self) -> None:
        """Give back what is held; idempotent."""
        ...


def read_bytes(source: ReadAt, offset: int, length: int) -> bytes:
    """A range of a disk as bytes: for small reads; the data path fills buffers of its own."""
    buffer = bytearray(length)
    source.read_into(offset, memoryview(buffer))
    return bytes(buffer)


def clear(buffer: memoryview) -> None:
    """Fill a writable buffer with zeros, without making as many zeros first."""
    np.frombuffer(buffer, np.uint8)[:] = 0


def check_range(offset: int, length: int, size_bytes: int) -> None:
    """Raise ValueError unless `[offset, offset + length)` lies within the disk."""
    if offset < 0 or length < 0 or offset + length > size_bytes:
        raise ValueError(f"range [{offset}, {offset + length}) leaves a disk of {size_bytes} bytes")


def file_size(fd: int) -> int:
    """The size of an open regular file or block device, in bytes."""
    return os.lseek(fd, 0, os.SEEK_END)


class FileReadAt:
    """A regular file or block device, whole. Owns the descriptor."""

    def __init__(self, fd: int, name: str) -> None:
        self._fd = fd
        self.name = name
        self._size = file_size(fd)

    @classmethod
    def open(cls, path: Path) -> "FileReadAt":
        """Open a path read-only. Raises: OSError."""
        return cls(os.open(path, os.O_RDONLY | os.O_CLOEXEC), str(path))

    @property
    def size_bytes(self) -> int:
        """The size when it was opened."""
        return self._size

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the buffer; a file that has become shorter is a ReadFailed, never zeros."""
        check_range(offset, len(buffer), self._size)
        done = 0
        while done < len(buffer):
            try:
                got = os.preadv(self._fd, [buffer[done : done + _IOV_BYTES]], offset + done)
            except OSError as error:
                raise ReadFailed(f"{self.name}: reading at byte {offset + done}: {error.strerror}") from error
            if not got:
                raise ReadFailed(f"{self.name}: ends at byte {offset + done}, though it was {self._size} bytes long")
            done += got

    def allocated(self) -> ExtentMap:
        """What the file system stores.

        Flushed first: over dirty data, holes were reported that were none (OpenZFS issue 15526).
        """
        extents: list[Extent] = []
        at = 0
        try:
            os.fsync(self._fd)
            while at < self._size:
                start = os.lseek(self._fd, at, os.SEEK_DATA)
                at = min(os.lseek(self._fd, start, os.SEEK_HOLE), self._size)
                extents.append(Extent(start, at))
        except OSError as error:
            if error.errno != errno.ENXIO:  # ENXIO: no data beyond; anything else: it cannot tell
                return ExtentMap.whole(self._size)
        return ExtentMap(extents)

    def close(self) -> None:
        """Close the descriptor."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class FileWriteAt:
    """A regular file of fixed size, created sparse. Owns the descriptor."""

    def __init__(self, fd: int, name: str, size_bytes: int) -> None:
        self._fd = fd
        self.name = name
        self._size = size_bytes

    @classmethod
    def create(cls, path: Path, size_bytes: int) -> "FileWriteAt":
        """Create a new sparse file, readable by its owner alone. Raises: FileExistsError, OSError."""
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(fd, size_bytes)
        except BaseException:
            os.close(fd)
            path.unlink()
            raise
        return cls(fd, str(path), size_bytes)

    @property
    def size_bytes(self) -> int:
        """Bytes that can be written."""
        return self._size

    def write_at(self, offset: int, data: bytes | memoryview) -> None:
        """Write all of it. Raises: OSError (ENOSPC included)."""
        check_range(offset, len(data), self._size)
        view = memoryview(data)
        done = 0
        while done < len(view):
            done += os.pwrite(self._fd, view[done : done + _IOV_BYTES], offset + done)
        # has the kernel begin to write it out, so that the sync at the end does not wait for everything at once
        os.posix_fadvise(self._fd, offset, len(view), os.POSIX_FADV_DONTNEED)

    def sync(self) -> None:
        """Flush to the device."""
        os.fsync(self._fd)

    def close(self) -> None:
        """Close the descriptor."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class SliceReadAt:
    """A window of another disk; closing it closes the other."""

    def __init__(self, source: ReadAt, start: int, size_bytes: int) -> None:
        if start < 0 or size_bytes < 0 or start + size_bytes > source.size_bytes:
            raise DamagedImage(f"a window of {size_bytes} bytes at {start} leaves a file of {source.size_bytes} bytes")
        self._source, self._start, self._size = source, start, size_bytes

    @property
    def size_bytes(self) -> int:
        """The window's size."""
        return self._size

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the buffer from within the window."""
        check_range(offset, len(buffer), self._size)
        self._source.read_into(self._start + offset, buffer)

    def allocated(self) -> ExtentMap:
        """The source's, shifted into the window."""
        clipped = self._source.allocated().clip(self._start, self._start + self._size)
        return ExtentMap(Extent(extent.start - self._start, extent.end - self._start) for extent in clipped)

    def close(self) -> None:
        """Close the source."""
        self._source.close()
