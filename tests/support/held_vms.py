"""Snapshots held in tests: short waits, every datastore mounted."""

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

from offhost.clock import SystemClock
from offhost.ids import InstallationId, RunId
from offhost.snapshot.held import HeldSnapshot, held
from offhost.snapshot.removal import Patience
from offhost.transport.contract import Transport
from offhost.transport.datastore import DatastoreTransport, Mount
from offhost.vsphere.session import VSphere
from offhost.vsphere.snapshots import Owner
from offhost.vsphere.values import QuiescePolicy, Vm
from support.vcenter import SimulatedVCenter

OWNER = Owner(InstallationId("a" * 32), RunId("b" * 32))


def mounted(simulated: SimulatedVCenter) -> list[Transport]:
    """The simulator's datastores, as a proxy has them mounted."""
    return [DatastoreTransport({name: Mount(path) for name, path in simulated.datastores.items()})]


@dataclass(frozen=True, slots=True)
class HeldVm:
    """A VM, and how to hold a snapshot of it."""

    vcenter: SimulatedVCenter
    vsphere: VSphere
    vm: Vm

    @property
    def disk_key(self) -> int:
        """The device key of its first disk."""
        return self.vcenter.disks(self.vm.moref)[0].key

    def hold(self, **changes: Any) -> AbstractAsyncContextManager[HeldSnapshot]:
        """A snapshot held as a backup would; keyword arguments replace what is usual."""
        usual: dict[str, Any] = {
            "owner": OWNER,
            "quiesce": QuiescePolicy("off"),
            "transports": mounted(self.vcenter),
            "clock": SystemClock(),
            "warnings": [],
            "patience": Patience(times=3, wait_s=0.02),
        }
        return held(self.vsphere, self.vm, **{**usual, **changes})

    def snapshots(self) -> list[str]:
        """The names of the snapshots it has now."""
        return [one.name for one in self.vcenter.snapshots(self.vm.moref)]
