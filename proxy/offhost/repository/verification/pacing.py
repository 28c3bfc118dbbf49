"""Reading no faster than was asked for, so that what else the disks serve does not suffer.

Owns: the waiting. Does not own: what is read.
"""

import threading

from offhost.clock import Clock

_LOOK_AGAIN_S = 0.5


class Pace:
    """At most so many bytes a second on the average, for all threads together; None for no bound. Thread-safe.

    What is read without a pause is one request: time that nobody used is not saved up.
    """

    def __init__(self, bytes_per_s: float | None, clock: Clock, stop: threading.Event) -> None:
        self._rate, self._clock, self._stop = bytes_per_s, clock, stop
        self._lock = threading.Lock()
        self._free_at = clock.monotonic()

    def take(self, count: int) -> None:
        """Wait until this many bytes may be read, or until `stop` is set."""
        if self._rate is None:
            return
        with self._lock:
            begins = max(self._free_at, self._clock.monotonic())
            self._free_at = begins + count / self._rate
        while (left := begins - self._clock.monotonic()) > 0 and not self._stop.is_set():
            self._stop.wait(min(left, _LOOK_AGAIN_S))
