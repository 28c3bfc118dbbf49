"""Reading no faster than was asked for, and fairly shared by all who read.

Owns: whose turn it is, and the waiting. Does not own: what is read, or which rate is right.
"""

import heapq
import itertools
import threading
from dataclasses import dataclass

from offhost.clock import Clock

_LOOK_AGAIN_S = 0.5


class Pace:
    """At most so many bytes a second on the average, for all threads together; None for no bound. Thread-safe.

    What is taken is one request, which is not divided; time that nobody used is not saved up. Flows, such as jobs,
    that want more than there is get equal shares of the bytes, whatever the number of their threads and the size of
    their requests: start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996).
    """

    def __init__(self, bytes_per_s: float | None, clock: Clock) -> None:
        self._rate, self._clock = bytes_per_s, clock
        self._turn = threading.Condition()
        self._free_at = clock.monotonic()
        self._waiting: list[tuple[int, int]] = []
        self._arrivals = itertools.count()
        self._virtual_time = 0
        self._ends: dict[str, int] = {}
        self.taken_bytes = 0
        """How much was let through since the beginning."""

    @property
    def bytes_per_s(self) -> float | None:
        """The bound in force."""
        return self._rate

    def limit(self, bytes_per_s: float | None) -> None:
        """Another bound from now on."""
        with self._turn:
            if bytes_per_s == self._rate:
                return
            self._rate = bytes_per_s
            self._free_at = self._clock.monotonic()
            self._turn.notify_all()

    def take(self, count: int, stop: threading.Event, flow: str = "") -> None:
        """Wait until a flow may read this many bytes, or until `stop` is set."""
        with self._turn:
            begins = max(self._virtual_time, self._ends.get(flow, 0))
            self._ends[flow] = begins + count
            ticket = (begins, next(self._arrivals))
            heapq.heappush(self._waiting, ticket)
            while not stop.is_set() and (wait_s := self._left_s(ticket)) > 0:
                self._turn.wait(min(wait_s, _LOOK_AGAIN_S))
            self._waiting.remove(ticket)
            heapq.heapify(self._waiting)
            self._virtual_time = max(self._virtual_time, begins)
            self._ends = {name: end for name, end in self._ends.items() if end > self._virtual_time}
            self.taken_bytes += count
            if self._rate is not None:
                self._free_at = max(self._free_at, self._clock.monotonic()) + count / self._rate
            self._turn.notify_all()

    def _left_s(self, ticket: tuple[int, int]) -> float:
        """How long a ticket waits yet; as long as others are before it, until they say."""
        if self._rate is None:
            return 0.0
        if ticket != self._waiting[0]:
            return _LOOK_AGAIN_S
        return self._free_at - self._clock.monotonic()


@dataclass(frozen=True, slots=True)
class Paces:
    """Bounds that all hold for what a flow reads."""

    bounds: tuple[Pace, ...] = ()
    flow: str = ""

    def take(self, count: int, stop: threading.Event) -> None:
        """Wait until this many bytes may be read under every bound, or until `stop` is set."""
        for pace in self.bounds:
            pace.take(count, stop, self.flow)


UNBOUND = Paces()
"""As fast as it goes."""
