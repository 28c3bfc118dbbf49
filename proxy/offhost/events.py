"""What happened, told to whoever listens.

Owns: the events and their delivery, in order, on the event loop's thread. Listeners must be quick and must not
fail; one that raises is logged and does not disturb the publisher.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from offhost.ids import RunId

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a run."""

    run_id: RunId
    job: str


@dataclass(frozen=True, slots=True)
class RunStarted(Event):
    """A job's execution has begun."""

    at: datetime


@dataclass(frozen=True, slots=True)
class DiskProgress(Event):
    """How far the copy of one disk has come."""

    vm: str
    disk: str
    done_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class TrackingLied(Event):
    """An audit found what change tracking had not reported: earlier restore points of the VM may be wrong there."""

    vm: str
    disk: str
    unreported_bytes: int


@dataclass(frozen=True, slots=True)
class VmEnded(Event):
    """One VM of a run is done with; bytes are sums over its disks."""

    vm: str
    ok: bool
    read_bytes: int
    stored_bytes: int
    host_bytes: int


@dataclass(frozen=True, slots=True)
class RunEnded(Event):
    """A job's execution is over; `state` is success, warning, failed or cancelled."""

    at: datetime
    state: str


@dataclass(slots=True)
class Events:
    """The bus. Not thread-safe: publish on the loop's thread."""

    _listeners: list[Callable[[Event], None]] = field(default_factory=list)

    def subscribe(self, listener: Callable[[Event], None]) -> None:
        """Call `listener` with every event from now on."""
        self._listeners.append(listener)

    def publish(self, event: Event) -> None:
        """Tell every listener."""
        for listener in self._listeners:
            try:
                listener(event)
            except Exception:  # noqa: BLE001 - a listener must never disturb what it listens to
                _log.exception("a listener failed on %r", event)
