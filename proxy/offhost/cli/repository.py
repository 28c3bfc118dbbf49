"""The repository that a command works on: found, unlocked, opened for as long as the command runs.

Owns: which repository is meant, where index copies are kept. Does not own: what opens it (unlocking), the repository.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from offhost.cli.invocation import Invocation
from offhost.cli.unlocking import unlock_of
from offhost.errors import UsageError

if TYPE_CHECKING:
    from offhost.config import Repository as Described
    from offhost.repository.keys.credentials import Unlock
    from offhost.repository.repository import Repository
    from offhost.repository.unlocked import UnlockedRepository


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
    """Where the repository lies, and what opens it.

    What options say goes before what proxy.yaml says of it; what the environment says is for one named by directory.
    Raises: UsageError.
    """
    described = _described(invocation)
    if isinstance(described, Path):
        return described, unlock_of(invocation.unlock, invocation.role)
    if invocation.unlock.given:
        return described.path, unlock_of(invocation.unlock)
    from offhost.daemon.unlocking import unlock_described

    return described.path, unlock_described(described)


def place(invocation: Invocation) -> Path:
    """Where the repository lies. Raises: UsageError."""
    described = _described(invocation)
    return described if isinstance(described, Path) else described.path


def described(invocation: Invocation) -> Described | None:
    """What proxy.yaml says of the repository; None for one that is named by its directory. Raises: UsageError."""
    found = _described(invocation)
    return None if isinstance(found, Path) else found


def _described(invocation: Invocation) -> Path | Described:
    """A directory, or what proxy.yaml says under a name."""
    if not invocation.repo:
        raise UsageError("which repository?", hint="offhost --repo DIR …")
    root = Path(invocation.repo)
    if os.sep in invocation.repo or root.exists() or not invocation.config.is_file():
        return root
    repositories = invocation.configuration().repositories
    if invocation.repo not in repositories:
        names = ", ".join(sorted(repositories)) or "none"
        raise UsageError(
            f"{invocation.repo}: neither a directory nor a repository of {invocation.config}", hint=f"it has {names}"
        )
    return repositories[invocation.repo]


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
