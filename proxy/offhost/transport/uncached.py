"""Reading files without pages that the kernel kept from before.

A network file system may serve what it cached of a file before the hosts wrote to it. Owns: the two ways around that.
"""

import fcntl
import mmap
import os
import threading

from offhost.blockio import FileReadAt, check_range, file_size
from offhost.errors import ReadFailed, TransportUnavailable
from offhost.extents import ExtentMap

_ALIGNMENT = 4096
_BOUNCE_BYTES = 4 << 20
_bounce = threading.local()


def dropping_cache(fd: int, name: str) -> FileReadAt:
    """A file whose cached pages are dropped first. Takes over the descriptor."""
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    return FileReadAt(fd, name)


class DirectFileReadAt:
    """A regular file read past the page cache (O_DIRECT). Thread-safe; takes over the descriptor.

    Everything passes through an aligned buffer, one for each thread: callers' buffers are aligned by chance only, and
    a copy in memory costs little beside a read that goes to the storage.
    """

    def __init__(self, fd: int, name: str) -> None:
        """Raises: TransportUnavailable when the file system knows no direct reads."""
        try:
            fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_DIRECT)
        except OSError as error:
            raise TransportUnavailable(
                f"{name}: the file system does not read past the page cache: {error.strerror}",
                hint="set direct_io: false for this datastore",
            ) from error
        self._whole = FileReadAt(fd, name)
        self._fd = fd
        self.name = name
        self._size = file_size(fd)

    @property
    def size_bytes(self) -> int:
        """The size when it was opened."""
        return self._size

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the buffer; a file that has become shorter is a ReadFailed, never zeros."""
        check_range(offset, len(buffer), self._size)
        done = 0
        while done < len(buffer):
            done += self._read_some(offset + done, buffer[done:])

    def _read_some(self, offset: int, buffer: memoryview) -> int:
        bounce = _bounce_buffer()
        start = offset // _ALIGNMENT * _ALIGNMENT
        length = min(_BOUNCE_BYTES, -(-(offset + len(buffer) - start) // _ALIGNMENT) * _ALIGNMENT)
        try:
            got = os.preadv(self._fd, [bounce[:length]], start)
        except OSError as error:
            raise ReadFailed(f"{self.name}: reading at byte {offset}: {error.strerror}") from error
        taken = min(start + got - offset, len(buffer))
        if taken <= 0:
            raise ReadFailed(f"{self.name}: ends at byte {start + got}, though it was {self._size} bytes long")
        buffer[:taken] = bounce[offset - start : offset - start + taken]
        return taken

    def allocated(self) -> ExtentMap:
        """What the file system stores."""
        return self._whole.allocated()

    def close(self) -> None:
        """Close the descriptor."""
        self._fd = -1
        self._whole.close()


def _bounce_buffer() -> memoryview:
    """This thread's aligned buffer."""
    buffer = getattr(_bounce, "buffer", None)
    if buffer is None:
        buffer = _bounce.buffer = memoryview(mmap.mmap(-1, _BOUNCE_BYTES))
    assert isinstance(buffer, memoryview)
    return buffer
