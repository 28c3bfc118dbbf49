"""The audit log: a line of JSON for whatever was changed elsewhere, kept over restarts, in a bounded number of files.

Owns: `audit.log` and its older parts, `audit.log.1` and so on, appended to by several processes at once. Does not own:
what a line says. Lines are handed to the system at once and not synced: what is lost in a power failure is the last
seconds of it.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

_PART_BYTES = 16 << 20
_PARTS = 8


@dataclass(frozen=True, slots=True)
class AuditLog:
    """The log at a path. Thread-safe."""

    path: Path
    part_bytes: int = _PART_BYTES

    def append(self, line: str) -> None:
        """Add a line. Raises: OSError."""
        with self._locked():
            self._rotate()
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                os.write(descriptor, f"{line}\n".encode())
            finally:
                os.close(descriptor)

    def lines(self) -> Iterator[str]:
        """Every line that is still there, the oldest first. Raises: OSError."""
        with self._locked():
            files = [file.open(encoding="utf-8", errors="replace") for file in self._files() if file.exists()]
        for file in reversed(files):
            with file:
                yield from (line.rstrip("\n") for line in file)

    def _files(self) -> list[Path]:
        """The newest first."""
        return [self.path, *(self.path.with_name(f"{self.path.name}.{number}") for number in range(1, _PARTS))]

    def _rotate(self) -> None:
        if not self.path.exists() or self.path.stat().st_size < self.part_bytes:
            return
        files = self._files()
        for newer, older in reversed(list(pairwise(files))):
            if newer.exists():
                newer.replace(older)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Alone among all processes: the file of the lock is never removed or renamed."""
        lock = os.open(self.path.with_name(f"{self.path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)
