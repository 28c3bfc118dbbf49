"""A running VM at a simulated vCenter whose datastores this machine has mounted."""

from collections.abc import AsyncIterator

import pytest

from offhost.vsphere.session import VSphere
from support.held_vms import HeldVm
from support.sessions import connected, found
from support.vcenter import DiskSpec, SimulatedVCenter


@pytest.fixture
async def vsphere(vcenter: SimulatedVCenter) -> AsyncIterator[VSphere]:
    """Logged in, and logged out at the end."""
    async with connected(vcenter) as session:
        yield session


@pytest.fixture
async def web(vcenter: SimulatedVCenter, vsphere: VSphere) -> HeldVm:
    """A running VM with VMware Tools and one disk, tracked from the start."""
    moref = vcenter.create_vm("web", [DiskSpec(1 << 20, b"before " * 1000)], change_tracking=True, tools_running=True)
    return HeldVm(vcenter, vsphere, await found(vsphere, moref))
