"""Where the disks of a restored VM are written: a mounted datastore, or the endpoint's `/folder`.

Owns: creating flat disks and small files in one VM's folder. Does not own: that folder's life, which vSphere makes and,
after a restore that ends early, deletes with all that is in it; nor making the VM out of them.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Protocol

from offhost.blockio import FileWriteAt, ReadAt, SliceReadAt, read_bytes
from offhost.chunking.workers import SpanWorkers
from offhost.diskimage import flat_name
from offhost.durable import flush_directory
from offhost.errors import Conflict, NotFound, TransportError, UsageError
from offhost.transport.copying import Progress, copy_out
from offhost.transport.https import HostBytes, RangedFile, ReadableFolder
from offhost.transport.present import shown
from offhost.transport.uncached import dropping_cache

_UPLOAD_BYTES = 4 << 20


class RestoreTarget(Protocol):
    """The folder of one VM that is being restored, which vSphere has just made. Synchronous."""

    def check(self) -> None:
        """Return when the folder can be written to. Raises: TransportError when it is not the one vSphere made."""
        ...

    def write_disk(self, name: str, descriptor: str, source: ReadAt, progress: Progress) -> None:
        """Write a whole flat disk: the bytes, then the descriptor `name`. On return all of it is durable.

        Raises: Conflict when a file of that name is there; TransportError; what reading the source raises.
        """
        ...

    def read_back(self, name: str, size_bytes: int) -> ReadAt:
        """A disk that was written, to be compared; the caller closes it."""
        ...

    def put_file(self, name: str, content: bytes) -> None:
        """Write a small file. Raises: Conflict, TransportError."""
        ...


class DatastoreTarget:
    """A VM's folder on a mounted datastore."""

    def __init__(self, mount: Path, folder: str, workers: SpanWorkers) -> None:
        """`folder` is the plain name of a folder in the mount. Raises: UsageError for anything else."""
        self._workers = workers
        self.folder = mount / _plain(folder)

    def check(self) -> None:
        """A folder that vSphere has just made appears on the mount, empty, unless something else is mounted there."""
        with _translating(self.folder):
            if not shown(lambda: _is_empty_folder(self.folder)):
                raise TransportError(
                    f"{self.folder}: is not the new, empty directory that vSphere has made under that name",
                    hint="is another datastore, a replica or an old state of it mounted there?",
                )

    def write_disk(self, name: str, descriptor: str, source: ReadAt, progress: Progress) -> None:
        """Write the disk sparse, and flush it before its descriptor appears."""
        path = self.folder / flat_name(name)
        with _translating(path), ExitStack() as stack:
            target = FileWriteAt.create(path, source.size_bytes)
            stack.callback(target.close)
            copy_out(source, target, self._workers, progress)
        self.put_file(name, descriptor.encode())

    def read_back(self, name: str, size_bytes: int) -> ReadAt:
        """The disk's bytes from the storage, not from the page cache."""
        path = self.folder / flat_name(name)
        with _translating(path):
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        return SliceReadAt(dropping_cache(fd, str(path)), 0, size_bytes)

    def put_file(self, name: str, content: bytes) -> None:
        """Write, flush, and flush the folder."""
        path = self.folder / _plain(name)
        with _translating(path), ExitStack() as stack:
            target = FileWriteAt.create(path, len(content))
            stack.callback(target.close)
            target.write_at(0, content)
            target.sync()
            flush_directory(self.folder)


class WritableFolder(ReadableFolder, Protocol):
    """Files on datastores that can be written whole."""

    def upload(self, path: str, size_bytes: int, chunks: Iterator[bytes]) -> None:
        """Write a file from its beginning to its end."""
        ...


class HttpsTarget:
    """A VM's folder through the endpoint's `/folder`; all bytes go through a host, holes too."""

    def __init__(self, access: WritableFolder, folder: str) -> None:
        """`folder` as vSphere writes it, `[datastore] folder`."""
        self._access = access
        self.folder = folder
        self._host_bytes = HostBytes()

    def check(self) -> None:
        """Nothing to see: the endpoint that made the folder is the one written through."""

    def write_disk(self, name: str, descriptor: str, source: ReadAt, progress: Progress) -> None:
        """Upload the disk in one request, then its descriptor."""
        self._upload(flat_name(name), source.size_bytes, _chunks(source, progress))
        self.put_file(name, descriptor.encode())

    def read_back(self, name: str, size_bytes: int) -> ReadAt:
        """The disk's bytes, fetched."""
        return RangedFile(self._access, f"{self.folder}/{flat_name(name)}", size_bytes, self._host_bytes)

    def put_file(self, name: str, content: bytes) -> None:
        """Upload a small file."""
        self._upload(name, len(content), iter([content] if content else []))

    def _upload(self, name: str, size_bytes: int, chunks: Iterator[bytes]) -> None:
        path = f"{self.folder}/{name}"
        with suppress(NotFound):
            self._access.file_size(path)
            raise Conflict(f"{path}: is there already", hint="choose another name for the VM, or remove the file")
        self._access.upload(path, size_bytes, chunks)


def _chunks(source: ReadAt, progress: Progress) -> Iterator[bytes]:
    for start in range(0, source.size_bytes, _UPLOAD_BYTES):
        length = min(_UPLOAD_BYTES, source.size_bytes - start)
        yield read_bytes(source, start, length)
        progress(length)


@contextmanager
def _translating(path: Path) -> Iterator[None]:
    """A scope in which an OSError becomes what an operator understands."""
    try:
        yield
    except FileExistsError as error:
        raise Conflict(
            f"{path}: is there already", hint="choose another name for the VM, or remove the file"
        ) from error
    except OSError as error:
        raise TransportError(
            f"{path}: {error.strerror}", hint="is the datastore mounted, writable by this user, and not full?"
        ) from error


def _plain(name: str) -> str:
    if name in ("", ".", "..") or "/" in name or not name.isprintable():
        raise UsageError(f"{name!r} is not a plain name for a file or folder on a datastore")
    return name


def _is_empty_folder(path: Path) -> bool:
    """Raises: OSError when there is something of that name, but not a folder to be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not os.listdir(fd)
    finally:
        os.close(fd)
