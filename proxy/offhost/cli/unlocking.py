"""What opens a repository, as people say it: options, variables of the environment, files.

Owns: which of them goes before which, and reading them. Does not own: what they open.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from offhost.errors import UsageError

if TYPE_CHECKING:
    from offhost.repository.keys.credentials import KeyFile, Passphrase, RecoveryKey, Unlock

F = TypeVar("F", bound=Callable[..., Any])

_SECRET_LIMIT = 4096
"""Characters of a file that holds a secret."""


@dataclass(frozen=True, slots=True)
class UnlockOptions:
    """What the options of a command line said; nothing, as a rule, and then the environment is asked."""

    passphrase_file: Path | None = None
    key_file: Path | None = None
    recovery_key_file: Path | None = None
    unencrypted: bool = False

    @property
    def given(self) -> list[str]:
        """The options that were given."""
        return [name for name in self.__slots__ if getattr(self, name)]


def unlock_options(prefix: str = "", whose: str = "the repository's") -> Callable[[F], F]:
    """Give a command the options that say what opens a repository; it receives them in one, as `{prefix}unlock`."""
    dashed = prefix.replace("_", "-")
    variables = f"OFFHOST_{prefix.upper()}"
    options = [
        _file(f"--{dashed}passphrase-file", f"Where {whose} passphrase is kept, instead of {variables}PASSPHRASE."),
        _file(f"--{dashed}key-file", f"The key file that opens {whose} data."),
        _file(f"--{dashed}recovery-key-file", f"Where the recovery key is kept; or {variables}RECOVERY_KEY."),
        click.option(f"--{dashed}unencrypted", is_flag=True, help="It is not encrypted; opens nothing that is."),
    ]
    names = [f"{prefix}{name}" for name in UnlockOptions.__slots__]

    def decorate(command: F) -> F:
        @functools.wraps(command)
        def gathered(*args: Any, **kwargs: Any) -> Any:
            kwargs[f"{prefix}unlock"] = UnlockOptions(*(kwargs.pop(name) for name in names))
            return command(*args, **kwargs)

        for option in reversed(options):
            gathered = option(gathered)
        return cast("F", gathered)

    return decorate


def _file(name: str, help_text: str) -> Callable[[Any], Any]:
    return click.option(name, metavar="FILE", type=click.Path(path_type=Path), help=help_text)


def environment_unlocks(role: str) -> bool:
    """Whether the environment has a secret for one of a command's several repositories."""
    return any(os.environ.get(name) for name in _variables(role))


def unlock_of(options: UnlockOptions, role: str | None = None) -> Unlock:
    """What opens the repository: the one way that the options name, else a variable. Raises: UsageError."""
    from offhost.repository.keys.credentials import Unencrypted

    if len(options.given) > 1:
        named = " and ".join("--" + name.replace("_", "-") for name in options.given)
        raise UsageError(f"{named} do not go together", hint="a repository is opened one way at a time")
    if options.unencrypted:
        return Unencrypted()
    if options.passphrase_file:
        return passphrase_in(options.passphrase_file)
    if options.key_file:
        return key_in(options.key_file)
    if options.recovery_key_file:
        return recovery_key_in(options.recovery_key_file)
    return _from_environment(role)


def _from_environment(role: str | None) -> Passphrase | RecoveryKey:
    from offhost.repository.keys.credentials import Passphrase, RecoveryKey

    for variables in (_variables(role), _variables(None)) if role else (_variables(None),):
        passphrase, recovery_key = (os.environ.get(name, "") for name in variables)
        if passphrase and recovery_key:
            raise UsageError(f"{' and '.join(variables)} are both set", hint="unset the one that is not meant")
        if passphrase:
            return Passphrase(passphrase)
        if recovery_key:
            return RecoveryKey.parse(recovery_key)
    raise UsageError(
        "what opens the repository is not given",
        hint="its passphrase: set OFFHOST_PASSPHRASE, or name a --passphrase-file; "
        "or --key-file, --recovery-key-file; --unencrypted where there is none",
    )


def _variables(role: str | None) -> tuple[str, str]:
    before = f"OFFHOST_{role}_" if role else "OFFHOST_"
    return f"{before}PASSPHRASE", f"{before}RECOVERY_KEY"


def passphrase_in(path: Path) -> Passphrase:
    """The first line of a file. Raises: UsageError."""
    from offhost.repository.keys.credentials import Passphrase

    found = _content(path).partition("\n")[0]
    if not found:
        raise UsageError(f"{path}: its first line is empty", hint="the passphrase stands in the first line")
    return Passphrase(found)


def key_in(path: Path) -> KeyFile:
    """The key of a key file. Raises: UsageError."""
    from offhost.repository.keys.credentials import KeyFile

    return KeyFile.parse(_content(path), str(path))


def recovery_key_in(path: Path) -> RecoveryKey:
    """A recovery key that was typed into a file. Raises: UsageError."""
    from offhost.repository.keys.credentials import RecoveryKey

    return RecoveryKey.parse(_content(path))


def _content(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            return file.read(_SECRET_LIMIT)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}", hint="name the file that holds the secret") from error
    except UnicodeDecodeError:
        # `from None`: the error underneath carries the secret's bytes.
        raise UsageError(f"{path}: not UTF-8", hint="is this the right file?") from None
