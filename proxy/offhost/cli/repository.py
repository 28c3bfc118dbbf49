"""The repository that a command works on: found, unlocked, opened for as long as the command runs.

Owns: where the passphrase comes from, where index copies are kept. Does not own: the repository.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from offhost.cli.invocation import Invocation
from offhost.errors import UsageError

if TYPE_CHECKING:
    from offhost.repository.credentials import Unlock
    from offhost.repository.repository import Repository
    from offhost.repository.unlocked import UnlockedRepository

_PASSPHRASE_LIMIT_BYTES = 4096


@contextmanager
def opened(invocation: Invocation) -> Iterator[Repository]:
    """The repository that `--repo` names, open. Raises: UsageError; NoRepository, WrongKey, FormatTooNew."""
    from offhost.repository.repository import Repository

    root, secret = located(invocation)
    with Repository.open(root, secret, cache=cache_directory()) as repository:
        yield repository


def unlocked(invocation: Invocation) -> UnlockedRepository:
    """The repository that `--repo` names, as far as its points: quick, and enough for whoever reads no chunk.

    Raises: UsageError; NoRepository, WrongKey, FormatTooNew.
    """
    from offhost.repository.unlocked import unlock

    return unlock(*located(invocation))


def located(invocation: Invocation) -> tuple[Path, Unlock]:
    """Where the repository lies, and its passphrase: by directory, or as proxy.yaml describes it under a name."""
    if not invocation.repo:
        raise UsageError("which repository?", hint="offhost --repo DIR …")
    from offhost.repository.credentials import Passphrase

    root = Path(invocation.repo)
    if os.sep in invocation.repo or root.exists() or not invocation.config.is_file():
        return root, Passphrase(passphrase(invocation))
    repositories = invocation.configuration().repositories
    if invocation.repo not in repositories:
        names = ", ".join(sorted(repositories)) or "none"
        raise UsageError(
            f"{invocation.repo}: neither a directory nor a repository of {invocation.config}", hint=f"it has {names}"
        )
    described = repositories[invocation.repo]
    return described.path, Passphrase(described.passphrase.resolve())


def passphrase(invocation: Invocation) -> str:
    """From `--passphrase-file` (its first line), else from OFFHOST_PASSPHRASE. Raises: UsageError."""
    if invocation.passphrase_file:
        try:
            with invocation.passphrase_file.open(encoding="utf-8") as file:
                found = file.read(_PASSPHRASE_LIMIT_BYTES).partition("\n")[0]
        except OSError as error:
            raise UsageError(
                f"{invocation.passphrase_file}: {error.strerror}", hint="name the file that holds the passphrase"
            ) from error
        except UnicodeDecodeError as error:
            raise UsageError(f"{invocation.passphrase_file}: not UTF-8", hint="is this the right file?") from error
    else:
        found = os.environ.get(f"OFFHOST_{invocation.role}_PASSPHRASE") or os.environ.get("OFFHOST_PASSPHRASE", "")
    if not found:
        raise UsageError(
            "the repository's passphrase is not given", hint="set OFFHOST_PASSPHRASE, or name a --passphrase-file"
        )
    return found


def cache_directory() -> Path:
    """Where index copies are kept (XDG Base Directory Specification)."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "offhost"


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """Blocking work that Ctrl-C and SIGTERM stop between two spans, so that it can clean up; a second one at once."""
    import signal

    stop = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, _frame: object) -> None:
        stop.set()
        signal.signal(number, signal.SIG_DFL)

    for number in before:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
