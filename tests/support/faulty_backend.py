"""A backend that fails as it is told, around a real one.

Owns: numbering the calls, and what goes wrong at the k-th. Does not own: what the objects are, which faults to try.
"""

import random
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from offhost.backend.contract import ObjectInfo
from offhost.backend.local import LocalBackend
from offhost.errors import AccessDenied, BackendError, NoSpace, Unavailable

How = Literal[
    "unavailable",
    "no space",
    "access denied",
    "failed",
    "reply lost",
    "cut short",
    "short answer",
    "twice",
    "late",
]

REFUSALS: dict[How, type[BackendError]] = {
    "unavailable": Unavailable,
    "no space": NoSpace,
    "access denied": AccessDenied,
    "failed": BackendError,
}

HOWS: tuple[How, ...] = (*REFUSALS, "reply lost", "cut short", "short answer", "twice", "late")
"""unavailable, no space, access denied, failed: nothing is done, and the error says so.
reply lost: it is done, and then it fails.
cut short: half of the bytes are written beside and nothing is created; half of a listing comes; then it fails.
short answer: fewer bytes come back than were asked for, without a word: what no backend may do.
twice: the call is made twice, as a client does that never saw the first reply.
late: the call waits until another thread has made one, so that what was begun first is done last."""

_LATE_S = 0.05


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong at call `at`, counted from 0; `lasting`: and at every one after it."""

    at: int
    how: How
    lasting: bool = False


class FaultyBackend:
    """A Backend. Thread-safe. Listings come in an order of chance, as the contract allows."""

    def __init__(self, inner: LocalBackend, fault: Fault | None = None, *, budget_bytes: int | None = None) -> None:
        """`budget_bytes`: how much may be put before the store is full."""
        self._inner, self._fault = inner, fault
        self._chance = random.Random(0)
        self._changed = threading.Condition()
        self._left_bytes = budget_bytes
        self.calls: list[str] = []
        """What was called, in order: `put packs/…`."""
        self.injected = 0

    @property
    def location(self) -> str:
        return self._inner.location

    def check_writable(self) -> None:
        self._inner.check_writable()

    def put(self, name: str, data: bytes | bytearray | memoryview) -> None:
        how = self._begin("put", name)
        self._take(len(data))
        if how == "cut short":
            (self._inner.root / "tmp" / f"half-{len(self.calls)}").write_bytes(bytes(data[: len(data) // 2]))
            raise Unavailable(f"{name}: the connection broke")
        self._inner.put(name, data)
        if how == "twice":
            self._inner.put(name, data)
        self._end(how)

    def _take(self, size_bytes: int) -> None:
        if self._left_bytes is not None:
            with self._changed:
                if size_bytes > self._left_bytes:
                    self.injected += 1
                    raise NoSpace("the store is full")
                self._left_bytes -= size_bytes

    def get(self, name: str, limit_bytes: int) -> bytes:
        how = self._begin("get", name)
        return self._answer(how, self._inner.get(name, limit_bytes))

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        how = self._begin("get_range", name)
        return self._answer(how, self._inner.get_range(name, offset, length))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        how = self._begin("list", prefix)
        found = list(self._inner.list(prefix))
        self._chance.shuffle(found)
        if how == "cut short":
            yield from found[: len(found) // 2]
            raise Unavailable(f"{prefix}: the connection broke")
        self._end(how)
        yield from found

    def make_durable(self, names: Iterable[str]) -> None:
        how = self._begin("make_durable", "")
        self._inner.make_durable(names)
        self._end(how)

    def size(self, name: str) -> int:
        how = self._begin("size", name)
        size = self._inner.size(name)
        self._end(how)
        return size

    def delete(self, name: str) -> None:
        how = self._begin("delete", name)
        self._inner.delete(name)
        if how == "twice":
            self._inner.delete(name)
        self._end(how)

    def _begin(self, operation: str, name: str) -> How | None:
        """Count a call; what is to go wrong with it afterwards."""
        with self._changed:
            number = len(self.calls)
            self.calls.append(f"{operation} {name}")
            self._changed.notify_all()
            fault = self._fault
            struck = fault is not None and (number == fault.at or (fault.lasting and number > fault.at))
            if fault is None or not struck:
                return None
            self.injected += 1
            if fault.how == "late":
                self._changed.wait(_LATE_S)
        if refusal := REFUSALS.get(fault.how):
            raise refusal(f"{operation} {name}: fault {number}")
        return fault.how

    def _answer(self, how: How | None, data: bytes) -> bytes:
        if how == "cut short":
            raise Unavailable("the connection broke in the middle of the answer")
        self._end(how)
        return data[: len(data) // 2] if how == "short answer" else data

    def _end(self, how: How | None) -> None:
        if how == "reply lost":
            raise Unavailable("the reply was lost")
