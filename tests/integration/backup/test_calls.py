"""What a backup asks of vCenter: few calls, and hardly more for more disks.

Where a call takes 100 ms, 42 of them are four seconds.
"""

import pytest

from offhost.backup.destination import Destination
from offhost.vsphere.session import VSphere
from support.backed_up_vms import BackedUpVm
from support.repositories import noise
from support.vcenter import DiskSpec, SimulatedVCenter

_FOUND = 3
"""Calls of the tests themselves, which look the VM up."""


async def calls(vcenter: SimulatedVCenter, web: BackedUpVm) -> int:
    """How many an incremental backup takes."""
    assert (await web.run()).problem is None
    vcenter.calls(reset=True)
    report = await web.run()
    assert report.problem is None
    assert {disk.mode for disk in report.disks} == {"incremental"}
    told = vcenter.calls()
    return sum(told.methods.values()) + len(told.rest) - _FOUND


@pytest.mark.parametrize(("disks", "most"), [(1, 42), (4, 45)])
async def test_a_backup_takes_few_calls_and_one_more_for_each_disk(
    vcenter: SimulatedVCenter, vsphere: VSphere, destination: Destination, disks: int, most: int
) -> None:
    moref = vcenter.create_vm("web", [DiskSpec(1 << 20, noise(1, 4096))] * disks, tools_running=True)
    assert await calls(vcenter, BackedUpVm(vcenter, vsphere, destination, moref)) <= most
