"""How much goes on at once: slots of the proxy, of a job, of a datastore, of a host.

Owns: waiting for all the slots a piece of work needs, and giving them back. Does not own: which slots those are.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

SlotKey: TypeAlias = tuple[str, ...]
"""What is limited: `("proxy",)`, `("job", NAME)`, `("datastore", VCENTER, NAME)`, `("host", VCENTER, NAME)`."""


@dataclass(slots=True, eq=False)
class _Waiting:
    """Someone in the queue; `granted` is done once the slots are theirs."""

    limits: Mapping[SlotKey, int]
    granted: "asyncio.Future[None]"


@dataclass(slots=True)
class Slots:
    """Counts what is under way for each key; at most as many as the one who comes asks to be within.

    All slots of a piece of work are taken at once or none: who waits holds nothing, so nobody waits for a waiter and
    there is no deadlock, in whatever order keys are named. Whoever came first and fits goes first; one that fits is
    let past one that does not. Lives on one event loop.
    """

    _taken: Counter[SlotKey] = field(default_factory=Counter)
    _queue: list[_Waiting] = field(default_factory=list)

    @asynccontextmanager
    async def held(self, limits: Mapping[SlotKey, int]) -> AsyncIterator[None]:
        """Hold one slot of each key for the scope, once fewer than `limits[key]` (at least 1) are held of each."""
        await self._take(limits)
        try:
            yield
        finally:
            self._give_back(limits)

    async def _take(self, limits: Mapping[SlotKey, int]) -> None:
        waiting = _Waiting(limits, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self._grant()
        try:
            await waiting.granted
        except asyncio.CancelledError:
            # Both may have happened before we were resumed: the slots were granted, and the wait was cancelled.
            if waiting in self._queue:
                self._queue.remove(waiting)
            else:
                self._give_back(limits)
            raise

    def _give_back(self, limits: Mapping[SlotKey, int]) -> None:
        self._taken.subtract(limits.keys())
        self._taken += Counter()  # drops the keys that are at zero: datastores come and go, the daemon stays
        self._grant()

    def _grant(self) -> None:
        still_waiting = []
        for waiting in self._queue:
            if not waiting.granted.cancelled() and self._fits(waiting.limits):
                self._taken.update(waiting.limits.keys())
                waiting.granted.set_result(None)
            else:
                still_waiting.append(waiting)
        self._queue[:] = still_waiting

    def _fits(self, limits: Mapping[SlotKey, int]) -> bool:
        return all(self._taken[key] < limit for key, limit in limits.items())
