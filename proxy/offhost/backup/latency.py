"""The latency guard: a backup reads slower while a datastore of the VM answers slower than its job allows.

Owns: when to slow down, and by how much. Does not own: the measuring (vsphere), the waiting (pacing).
"""

import asyncio
import logging
from dataclasses import dataclass

from offhost.clock import Clock
from offhost.errors import VSphereError
from offhost.pacing import Pace
from offhost.vsphere.latency import REAL_TIME_S, LatencyMeter
from offhost.vsphere.values import Vm

_log = logging.getLogger(__name__)

FLOOR_BYTES_PER_S = 4 << 20
"""A backup that is slowed down for ever would hold its snapshot for ever."""
_SLOWER, _FASTER = 0.5, 1.25
_UNBOUND_AT = 4.0
"""A bound so many times above what is read bounds nothing any more."""


@dataclass(frozen=True, slots=True)
class LatencyLimit:
    """How long a datastore may take to answer while a job reads, and what measures it."""

    meter: LatencyMeter
    limit_ms: int
    look_every_s: float = REAL_TIME_S


class LatencyGuard:
    """Bounds what is read of one VM, as its datastores answer. The bound is `pace`.

    Several backups that slow down by halves and speed up by little find their shares of a datastore without knowing
    of each other.
    """

    def __init__(self, limit: LatencyLimit, vm: Vm, clock: Clock) -> None:
        self.pace = Pace(None, clock)
        self.slowed = ""
        """The slowest answer over the limit, for people; empty when there was none."""
        self._limit, self._vm, self._clock = limit, vm, clock
        self._longest_ms = 0

    async def watch(self) -> None:
        """Look again and again; ends by cancellation. A latency that cannot be measured changes nothing."""
        while True:
            taken, since = self.pace.taken_bytes, self._clock.monotonic()
            await asyncio.sleep(self._limit.look_every_s)
            try:
                measured = await self._limit.meter.of(self._vm)
            except VSphereError as error:
                _log.warning("the latency under %s could not be measured just now: %s", self._vm.name, error)
                continue
            read = (self.pace.taken_bytes - taken) / (self._clock.monotonic() - since)
            self._adapt(measured, read)

    def _adapt(self, measured: dict[str, int], read_bytes_per_s: float) -> None:
        name, latency_ms = max(measured.items(), key=lambda one: one[1], default=("", 0))
        rate = next_rate(self.pace.bytes_per_s, read_bytes_per_s, over=latency_ms > self._limit.limit_ms)
        if latency_ms > max(self._limit.limit_ms, self._longest_ms):
            self._longest_ms = latency_ms
            self.slowed = (
                f"{self._vm.name}: read slower while the datastore {name} took up to {latency_ms} ms to answer, "
                f"over the {self._limit.limit_ms} ms that the job allows"
            )
        if rate != self.pace.bytes_per_s:
            bound = f"at most {rate / (1 << 20):.0f} MiB/s" if rate is not None else "without a bound"
            _log.info("%s: %s answers in %d ms: reading %s", self._vm.name, name, latency_ms, bound)
        self.pace.limit(rate)


def next_rate(rate: float | None, read_bytes_per_s: float, *, over: bool) -> float | None:
    """The bound for the next while, bytes a second, after one in which so much was read under `rate`. Pure.

    Over the limit half of what was read, never less than the floor; else a quarter more, until it bounds nothing.
    """
    if over:
        return max(min(read_bytes_per_s, rate or read_bytes_per_s) * _SLOWER, FLOOR_BYTES_PER_S)
    if rate is None or rate > max(_UNBOUND_AT * read_bytes_per_s, _UNBOUND_AT * FLOOR_BYTES_PER_S):
        return None
    return rate * _FASTER
