"""Backends whose every put, list and delete waits at a gate until somebody lets it through.

So a test decides in which order what several processes do takes effect, and who never comes back.
"""

import threading
from collections.abc import Iterator
from pathlib import Path

from offhost.backend.contract import ObjectInfo
from offhost.backend.local import LocalBackend
from offhost.errors import BackendError

_SETTLE_S = 0.05
"""How long a call that was let through may take to lead to another call, or to an end."""


class Killed(BackendError):
    """The process is gone: nothing that it still tries has any effect."""


class Gatehouse:
    """Where calls wait. One for all the processes of a test."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.waiting: list[tuple[str, str]] = []
        self._passes: dict[tuple[str, str], int] = {}
        self._dead: set[str] = set()
        self._events = 0
        self._open = False
        self.passed = 0

    def enter(self, process: str, call: str) -> None:
        """Wait until the call is let through. Raises: Killed."""
        with self._changed:
            ticket = (process, f"{call} #{self._events}")
            self._events += 1
            self.waiting.append(ticket)
            self._changed.notify_all()
            while not self._open and process not in self._dead and not self._passes.pop(ticket, 0):
                self._changed.wait()
            self.passed += 1
            if ticket in self.waiting:
                self.waiting.remove(ticket)
            if process in self._dead:
                raise Killed(f"{process} was killed before {call}")

    def happened(self) -> None:
        """Something ended: whoever waits for the next call need not wait any longer."""
        with self._changed:
            self._events += 1
            self._changed.notify_all()

    def let_through(self, ticket: tuple[str, str]) -> None:
        """Let one call through, and wait for what it leads to."""
        with self._changed:
            seen = self._events
            self.waiting.remove(ticket)
            self._passes[ticket] = 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._events > seen, _SETTLE_S)

    def calls_of(self, living: bool = True) -> list[tuple[str, str]]:
        """Who waits, but for the dead."""
        with self._changed:
            return [ticket for ticket in self.waiting if ticket[0] not in self._dead or not living]

    def kill(self, process: str) -> None:
        """Nothing of this process takes effect any more."""
        with self._changed:
            self._dead.add(process)
            self._changed.notify_all()

    def open(self) -> None:
        """Let everybody through from now on."""
        with self._changed:
            self._open = True
            self._changed.notify_all()


class GatedBackend(LocalBackend):
    """A directory as one process sees it."""

    def __init__(self, root: Path, gatehouse: Gatehouse, process: str) -> None:
        super().__init__(root)
        self._gatehouse, self.process = gatehouse, process
        self.gated = False
        """Whether calls wait: not before the process is up."""

    def _enter(self, call: str) -> None:
        if self.gated:
            self._gatehouse.enter(self.process, call)

    def put(self, name: str, data: bytes | bytearray | memoryview) -> None:
        self._enter(f"put {name}")
        super().put(name, data)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        self._enter(f"list {prefix}")
        yield from list(super().list(prefix))

    def delete(self, name: str) -> None:
        self._enter(f"delete {name}")
        super().delete(name)
