"""Time, as something that is handed in.

Owns: the only calls of the system's clocks. Everything else takes a `Clock`, so that tests can own time.
"""

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Wall time for records, monotonic time for waiting."""

    def now(self) -> datetime:
        """The time of day, aware, in UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds since some fixed moment; never jumps."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def now(self) -> datetime:
        """The time of day, aware, in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds since some fixed moment; never jumps."""
        return time.monotonic()


def rfc3339(at: datetime) -> str:
    """A time (aware) as records and answers write it: in UTC, to the second, `2026-01-01T22:00:00Z`."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def moment(text: object) -> datetime:
    """A time as an object of a repository says it. Raises: ValueError for one without its zone, or for no time at all.

    Without a zone it could not be compared with the others.
    """
    time_ = datetime.fromisoformat(text) if isinstance(text, str) else None
    if time_ is None or time_.tzinfo is None:
        raise ValueError(f"{text!r:.40} is no time with its zone")
    return time_
