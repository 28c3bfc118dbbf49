"""Secrets by reference: a configuration file never holds one.

Owns: the three kinds of reference and how they are followed. Does not own: what the secret opens.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from offhost.errors import ConfigError

MAX_BYTES = 64 * 1024

_REFERENCE = re.compile(r"\{(credential|file|env) +([^{}]+?)\}")


@dataclass(frozen=True, slots=True)
class Secret:
    """Where a secret is kept. It is read when it is needed and never held here, so that nothing can print it."""

    kind: Literal["credential", "file", "env"]
    name: str

    @classmethod
    def parse(cls, text: str) -> "Secret | None":
        """Read `{credential NAME}`, `{file PATH}` or `{env NAME}`; None for anything else."""
        found = _REFERENCE.fullmatch(text.strip())
        if found is None:
            return None
        kind, name = found.groups()
        if kind == "file" and not name.startswith("/"):
            return None
        if kind == "credential" and ("/" in name or name in (".", "..")):
            return None
        return cls(cast("Literal['credential', 'file', 'env']", kind), name)

    def __str__(self) -> str:
        return f"{{{self.kind} {self.name}}}"

    def resolve(self, environment: Mapping[str, str] = os.environ) -> str:
        """The secret itself, without a final line break. Read anew at every call: a rotated password is found.

        Raises: ConfigError naming the reference, never the content.
        """
        if self.kind == "env":
            value = environment.get(self.name)
            if not value:
                raise ConfigError(f"{self}: the variable is not set", hint=f"set {self.name} for the proxy's process")
            return value
        return self._read(self._path(environment))

    def _path(self, environment: Mapping[str, str]) -> Path:
        if self.kind == "file":
            return Path(self.name)
        directory = environment.get("CREDENTIALS_DIRECTORY")
        if not directory:
            raise ConfigError(
                f"{self}: systemd has handed this process no credentials",
                hint=f"LoadCredential={self.name}:… in the unit; outside systemd, set CREDENTIALS_DIRECTORY",
            )
        return Path(directory) / self.name

    def _read(self, path: Path) -> str:
        try:
            with path.open("rb") as file:
                content = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise ConfigError(
                f"{self}: {path}: {error.strerror}", hint="the proxy's user must be able to read it"
            ) from error
        try:
            text = content.decode()
        except UnicodeDecodeError:
            # `from None`: the error underneath carries the secret's bytes.
            raise ConfigError(f"{self}: the file is not UTF-8 text", hint=f"look at {path}") from None
        if not text.strip() or len(content) > MAX_BYTES:
            raise ConfigError(f"{self}: the file is empty, or too large for a secret", hint=f"look at {path}")
        return text.removesuffix("\n").removesuffix("\r")
