"""Claims: something is held by this process until it lets go or dies, and other processes can tell.

Owns: locked files. The kernel drops the lock with the process, however it ends, so that a claim is never stale.
The locks belong to the open file (F_OFD_SETLK): they hold between tasks of one process, too, and whether one is held
can be asked without taking it, so that whoever asks is never mistaken for the holder.
Does not own: what is claimed (directory).
"""

import contextlib
import fcntl
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

_MAX_NOTE_BYTES = 4096

_FLOCK = struct.Struct("@hhqqi0q")
"""fcntl(2)'s `struct flock`: type, whence, start, length, pid."""

_WHOLE_FILE = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)


@dataclass(slots=True)
class Claim:
    """A held claim; leaving its scope lets go. The file goes with it, so that no claims of old lie about."""

    _path: Path
    _descriptor: int

    def release(self) -> None:
        """Let go. Harmless when done before."""
        if self._descriptor < 0:
            return
        descriptor, self._descriptor = self._descriptor, -1
        try:
            with contextlib.suppress(FileNotFoundError):
                self._path.unlink()
        finally:
            os.close(descriptor)  # with it the lock goes, also where the file must stay

    def note(self, text: str) -> None:
        """Replace what others read about this claim."""
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, text.encode()[:_MAX_NOTE_BYTES], 0)

    def __enter__(self) -> "Claim":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def claim(path: Path, note: str) -> Claim | None:
    """Claim what `path` stands for, leaving `note` for those who come too late; None when it is held.

    Raises: OSError when the file cannot be made or written; then nothing is claimed.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        if not _locked(descriptor):
            return None
        if _is_still(path, descriptor):
            return _noted(Claim(path, descriptor), note)
        # The holder before us let go, and with that removed the file we had opened: a lock on it claims nothing.
        os.close(descriptor)


def is_held(path: Path) -> bool:
    """Whether a living process, this one included, holds the claim."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, _WHOLE_FILE)
    finally:
        os.close(descriptor)
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)


def read_note(path: Path) -> str:
    """What the holder left for others; empty when it has just let go."""
    try:
        with path.open("rb") as file:
            return file.read(_MAX_NOTE_BYTES).decode(errors="replace")
    except FileNotFoundError:
        return ""


def _locked(descriptor: int) -> bool:
    """Lock the open file; where that fails, it is closed."""
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _WHOLE_FILE)
    except BlockingIOError:
        os.close(descriptor)
        return False
    except BaseException:
        os.close(descriptor)
        raise
    return True


def _noted(held: Claim, note: str) -> Claim:
    """The claim with its note; where that cannot be written, as on a full disk, nothing stays claimed."""
    try:
        held.note(note)
    except BaseException:
        held.release()
        raise
    return held


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(follow_symlinks=False), os.fstat(descriptor))
    except FileNotFoundError:
        return False
