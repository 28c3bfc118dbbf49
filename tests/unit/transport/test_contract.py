"""The first transport that can serve a disk, and what is said of the others."""

from dataclasses import dataclass

import pytest

from offhost.diskimage.layers import Zeros
from offhost.errors import DamagedImage, OffhostError, TransportUnavailable
from offhost.transport.contract import OpenDisk, Refusal, open_first
from offhost.vsphere.values import Disk, Vm
from support.disks import VM, disk

DISK = disk("[DS1] web/web.vmdk", 512)


@dataclass
class Scripted:
    """A transport that does as it is told."""

    name: str
    reason: str | None = None
    error: OffhostError | None = None

    def refusal(self, vm: Vm, disk: Disk) -> str | None:
        return self.reason

    def open(self, vm: Vm, disk: Disk) -> OpenDisk:
        if self.error:
            raise self.error
        return OpenDisk(source=Zeros(512), transport=self.name, identify=lambda: "")

    def fetch(self, path: str, limit_bytes: int) -> bytes:
        return b""


def test_the_first_that_can_serves_and_the_reasons_of_those_before_it_are_kept() -> None:
    unavailable = TransportUnavailable("no device", hint="attach one")
    order = [Scripted("san", reason="switched off"), Scripted("hotadd", error=unavailable), Scripted("nbd")]
    opened = open_first(order, VM, DISK)
    assert opened.transport == "nbd"
    assert opened.refused == (Refusal("san", "switched off"), Refusal("hotadd", "no device (attach one)"))
    assert opened.host_bytes() == 0


def test_none_that_can_names_every_reason() -> None:
    with pytest.raises(TransportUnavailable, match=r"Hard disk 1 .*san: switched off; https: it runs"):
        open_first([Scripted("san", reason="switched off"), Scripted("https", reason="it runs")], VM, DISK)


def test_no_transport_at_all_is_said() -> None:
    with pytest.raises(TransportUnavailable, match="allows none"):
        open_first([], VM, DISK)


def test_a_damaged_disk_ends_the_search() -> None:
    with pytest.raises(DamagedImage):
        open_first([Scripted("datastore", error=DamagedImage("cut short")), Scripted("nbd")], VM, DISK)
