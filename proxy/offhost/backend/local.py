"""A repository in a local directory.

Owns: atomic creation (write beside, flush, link, flush the directory), a reserve for when the disk is full, and the
garbage that a dead writer leaves in `tmp/`. A link, unlike a rename, fails when the name is taken, so an object is
never replaced.
"""

import errno
import fcntl
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from offhost.backend.contract import ObjectInfo
from offhost.backend.mounts import check_uncached
from offhost.durable import flush_directory
from offhost.errors import (
    AccessDenied,
    BackendError,
    NoRepository,
    NoSpace,
    ObjectExists,
    ObjectNotFound,
    PackCorrupt,
    Unavailable,
)

_TEMPORARY = "tmp"
_RESERVE = "reserve"
_RESERVE_BYTES = 2 << 20
_RESERVED_FOR = ("condemned/", "marks/", "points/", "sweeps/")
"""What forgetting, collecting and ending a session put."""


class LocalBackend:
    """Objects as files below `root`. Thread-safe; several processes may use one root."""

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise NoRepository(
                f"{root}: no such directory", hint="name the repository's directory, or make it with `repo init`"
            )
        self.root = root.absolute()
        if not self._is_mounted():
            raise NoRepository(
                f"{root}: empty, not an offhost repository",
                hint="is its file system mounted? Else `offhost --repo DIR repo init` makes one",
            )

    @classmethod
    def create(cls, root: Path, prefixes: list[str]) -> "LocalBackend":
        """Make the directories of a new repository, durably. Raises: UnsafeMount; BackendError."""
        check_uncached(root.resolve())
        parents = dict.fromkeys(["", *(prefix.rpartition("/")[0] for prefix in prefixes)])
        with _translated(root):
            root.parent.mkdir(parents=True, exist_ok=True)
            for prefix in [*parents, _TEMPORARY, *prefixes]:
                (root / prefix).mkdir(mode=0o700, exist_ok=True)
            for directory in (root.absolute().parent, root, *(root / parent for parent in parents)):
                flush_directory(directory)
        return cls(root)

    @property
    def location(self) -> str:
        """The directory."""
        return str(self.root)

    def check_writable(self) -> None:
        """Refuse a network mount that caches attributes, and keep a reserve. Raises: UnsafeMount."""
        check_uncached(self.root.resolve())
        self._keep_reserve()

    def _keep_reserve(self) -> None:
        """Take some room while there is room; without it nothing but a full disk is harder."""
        reserve = self.root / _RESERVE
        if reserve.exists():
            return
        temporary = self.root / _TEMPORARY / secrets.token_hex(16)
        with suppress(OSError), open(temporary, "xb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
                os.posix_fallocate(file.fileno(), 0, _RESERVE_BYTES)
                os.link(temporary, reserve)
            finally:
                temporary.unlink()

    def _give_up_reserve(self) -> bool:
        try:
            (self.root / _RESERVE).unlink()
        except OSError:
            return False
        return True

    def put(self, name: str, data: bytes | bytearray | memoryview) -> None:
        """Create an object. Nothing of it remains when this fails, unless at the last step, its directory's flush.

        On a full disk the reserve is given up for what forgets and collects: that must stay possible.
        """
        try:
            self._put(name, data)
        except NoSpace:
            if not name.startswith(_RESERVED_FOR) or not self._give_up_reserve():
                raise
            self._put(name, data)

    def _put(self, name: str, data: bytes | bytearray | memoryview) -> None:
        path = self.root / name
        with _translated(path), self._written_beside(data) as temporary:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            os.link(temporary, path)
            with _kept_visible(path):
                flush_directory(path.parent)
                flush_directory(path.parent.parent)  # whoever made the folder may have died before its flush

    @contextmanager
    def _written_beside(self, data: bytes | bytearray | memoryview) -> Iterator[Path]:
        temporary = self.root / _TEMPORARY / secrets.token_hex(16)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            if not os.fstat(fd).st_nlink:
                raise Unavailable(f"{temporary}: swept before it was locked")
            view, done = memoryview(data), 0
            while done < len(view):
                done += os.write(fd, view[done:])
            os.fsync(fd)
            yield temporary
        finally:
            with suppress(FileNotFoundError):
                temporary.unlink()
            os.close(fd)

    def get(self, name: str, limit_bytes: int) -> bytes:
        """An object whole."""
        size = self.size(name)
        if size > limit_bytes:
            raise PackCorrupt(f"{self.root / name}: {size} bytes, where at most {limit_bytes} are possible")
        return self.get_range(name, 0, size)

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        """Part of an object."""
        path = self.root / name
        with _translated(path):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                data = os.pread(fd, length, offset)
                while len(data) < length and (more := os.pread(fd, length - len(data), offset + len(data))):
                    data += more
            finally:
                os.close(fd)
        if len(data) < length:
            raise PackCorrupt(f"{path}: ends at byte {offset + len(data)}, {length} bytes wanted at {offset}")
        return data

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """The files below a prefix; the directories' own order."""
        folder = prefix.rstrip("/")
        with _translated(self.root / folder):
            try:
                yield from self._walk(folder)
            except FileNotFoundError as error:
                # a prefix that was never used holds nothing; but an unmounted file system must not look like that
                if Path(error.filename) != self.root / folder or not self._is_mounted():
                    raise Unavailable(f"{error.filename}: vanished: is its file system mounted?") from error

    def _is_mounted(self) -> bool:
        return self.root.is_dir() and any(self.root.iterdir())

    def _walk(self, folder: str) -> Iterator[ObjectInfo]:
        for entry in list(os.scandir(self.root / folder)):
            if entry.is_dir(follow_symlinks=False):
                yield from self._walk(f"{folder}/{entry.name}")
            else:
                with suppress(FileNotFoundError):  # deleted since the directory was read
                    yield ObjectInfo(f"{folder}/{entry.name}", entry.stat(follow_symlinks=False).st_size)

    def make_durable(self, names: Iterable[str]) -> None:
        """Flush the directories that name these files; the files were flushed before they were named."""
        for folder in {(self.root / name).parent for name in names}:
            with _translated(folder), suppress(FileNotFoundError):
                try:
                    flush_directory(folder)
                except OSError as error:
                    if error.errno not in (errno.EINVAL, errno.EROFS):  # read-only media know no flush
                        raise

    def size(self, name: str) -> int:
        """Bytes of a file."""
        path = self.root / name
        with _translated(path):
            return path.stat().st_size

    def delete(self, name: str) -> None:
        """Remove a file, durably."""
        path = self.root / name
        with _translated(path), suppress(FileNotFoundError):
            path.unlink(missing_ok=True)
            flush_directory(path.parent)  # also when it was gone: an earlier flush may have failed

    def sweep_temporary(self) -> int:
        """Remove what dead writers left in `tmp/`; a living one holds a lock on its file. Returns how many."""
        removed = 0
        for path in (self.root / _TEMPORARY).glob("*"):
            with suppress(OSError):
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink()
                    removed += 1
                finally:
                    os.close(fd)
        return removed


@contextmanager
def _kept_visible(path: Path) -> Iterator[None]:
    """A new name that could not be flushed stays: another process may have seen it already, and rely on it. Nor is that
    an error to be tried again (Unavailable): the name is taken now, which would look like success.
    """
    try:
        yield
    except OSError as error:
        raise BackendError(f"{path}: is there, but its directory could not be flushed: {error.strerror}") from error


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    """Say an OSError in the terms of the contract."""
    try:
        yield
    except FileNotFoundError as error:
        raise ObjectNotFound(f"{path}: not there") from error
    except FileExistsError as error:
        raise ObjectExists(f"{path}: exists already") from error
    except PermissionError as error:
        raise AccessDenied(f"{path}: {error.strerror}", hint="the repository's files belong to one user") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(
                f"{path}: {error.strerror}",
                hint="nothing that was stored before is harmed; free some space and run the backup again",
            ) from error
        if error.errno == errno.EROFS:
            raise AccessDenied(f"{path}: {error.strerror}") from error
        if error.errno in (errno.EIO, errno.ESTALE, errno.ETIMEDOUT):
            raise Unavailable(f"{path}: {error.strerror}") from error
        raise BackendError(f"{path}: {error.strerror}") from error
