"""A key file: 32 random bytes as one line of text, so that it can be a file, a systemd credential or a variable.

Owns: the line (FORMAT.md, "Key files") and making the file. Does not own: what the key opens (wrappers).
"""

import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import blake3

from offhost.durable import flush_directory
from offhost.errors import Conflict, UsageError

_MAGIC = "offhost-key-file-1"
_KEY_BYTES = 32
_CHECK_CONTEXT = "offhost 1 key file check"


@dataclass(frozen=True, slots=True)
class KeyFile:
    """What a key file holds. Never printed by accident: left out of the repr."""

    key: bytes = field(repr=False)

    kind: ClassVar[str] = "keyfile"
    name: ClassVar[str] = "key file"

    @classmethod
    def new(cls) -> "KeyFile":
        """A fresh one."""
        return cls(secrets.token_bytes(_KEY_BYTES))

    def text(self) -> str:
        """The line that stands in the file."""
        return f"{_MAGIC} {self.key.hex()} {_check(self.key)}\n"

    @classmethod
    def parse(cls, text: str, source: str) -> "KeyFile":
        """Read the line; `source` is what an error calls it. Raises: UsageError that never shows the content."""
        words = text.split()
        if not words or words[0] != _MAGIC:
            raise UsageError(
                f"{source}: not an offhost key file", hint="`repo init --key-file` and `keys add --key-file` make one"
            )
        try:
            key, check = bytes.fromhex(words[1]), words[2]
        except (IndexError, ValueError):
            key, check = b"", ""
        if len(words) != 3 or len(key) != _KEY_BYTES or check != _check(key):
            raise UsageError(
                f"{source}: the key file is damaged: its check does not fit",
                hint="use another copy of it, or the repository's passphrase or recovery key",
            )
        return cls(key)

    def save(self, path: Path) -> None:
        """Make the file, durably and readable by its owner alone. Raises: Conflict when it exists; UsageError."""
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError as error:
            raise Conflict(
                f"{path}: exists already, and may be the key of something", hint="name a file that does not exist yet"
            ) from error
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror}", hint="name a place where a file can be made") from error
        try:
            with open(fd, "w", encoding="ascii") as file:
                file.write(self.text())
                file.flush()
                os.fsync(fd)
            flush_directory(path.absolute().parent)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise UsageError(
                f"{path}: {error.strerror}", hint="a key that is not durable must not be relied on"
            ) from error


def _check(key: bytes) -> str:
    return blake3.blake3(key, derive_key_context=_CHECK_CONTEXT).digest(4).hex()
