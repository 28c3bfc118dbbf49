"""Watching a snapshot while it is held: its deltas grow, and so does what its removal will cost.

Owns: what is looked at, how often, and what is said. Does not own: what is done with the snapshot (`held`).
"""

import asyncio
import logging
from dataclasses import dataclass
from datetime import timedelta

from offhost.clock import Clock
from offhost.errors import LowSpace, VSphereError
from offhost.printable import size
from offhost.snapshot.held import HeldSnapshot
from offhost.snapshot.space import check_free_space
from offhost.vsphere.session import VSphere
from offhost.vsphere.snapshots import delta_bytes

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SnapshotLimits:
    """What a held snapshot should not pass.

    `min_free` is the share of a datastore that must stay free, which ends the run; to grow older than `max_age`, or
    beyond the share `max_size` of what the VM's disks can hold, is told.
    """

    min_free: float
    max_age: timedelta = timedelta(days=1)
    max_size: float = 0.25
    look_every_s: float = 30.0


class SnapshotWatch:
    """Looks after one held snapshot, and tells its warnings each thing once."""

    def __init__(self, vsphere: VSphere, snap: HeldSnapshot, limits: SnapshotLimits, clock: Clock) -> None:
        self._vsphere, self._snap, self._limits, self._clock = vsphere, snap, limits, clock
        self._told: set[str] = set()

    async def watch(self) -> None:
        """Look again and again; ends by cancellation. What cannot be looked at is looked at the next time.

        Raises: LowSpace.
        """
        while True:
            await asyncio.sleep(self._limits.look_every_s)
            try:
                await check_free_space(self._vsphere, self._snap.vm, min_free=self._limits.min_free)
                self._judge(await delta_bytes(self._vsphere, self._snap.vm))
            except LowSpace:
                raise
            except VSphereError as error:
                _log.warning("the snapshot of %s could not be looked at just now: %s", self._snap.vm.name, error)

    async def bytes(self) -> int:
        """How large its deltas are; 0 where that cannot be measured."""
        try:
            count = await delta_bytes(self._vsphere, self._snap.vm)
        except VSphereError as error:
            _log.warning("the snapshot of %s could not be measured: %s", self._snap.vm.name, error)
            return 0
        self._judge(count)
        return count

    def _judge(self, count: int) -> None:
        limits, disks = self._limits, self._snap.configuration.disks
        if self._clock.now() - self._snap.taken_at > limits.max_age:
            self._tell("age", f"has been held for longer than {limits.max_age.total_seconds() / 3600:.0f} hours")
        if count > limits.max_size * sum(disk.capacity_bytes for disk in disks):
            self._tell("size", f"has grown to {size(count)}, over {limits.max_size:.0%} of the disks")

    def _tell(self, what: str, words: str) -> None:
        if what not in self._told:
            self._told.add(what)
            warning = f"{self._snap.vm.name}: its snapshot {words}, and its removal takes the longer"
            _log.warning("%s", warning)
            self._snap.warnings.append(warning)
