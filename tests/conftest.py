"""Fixtures that any test may use: a simulated vCenter."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.vcenter import SimulatedVCenter, SimulatorMissing, build


@pytest.fixture(scope="session")
def vcenter_binary() -> None:
    """The simulator is built; tests that need it are skipped, with the reason, where it cannot be."""
    try:
        build()
    except SimulatorMissing as error:
        pytest.skip(str(error))


@pytest.fixture
def vcenter(vcenter_binary: None) -> Iterator[SimulatedVCenter]:
    """A fresh vCenter with the VMFS datastores DS1 and DS2, an NFS one and a vSAN one."""
    with SimulatedVCenter(datastores={"DS1": "VMFS", "DS2": "VMFS", "NFS1": "NFS", "VSAN1": "vsan"}) as simulated:
        yield simulated


@pytest.fixture(scope="module")
def shared_vcenter(vcenter_binary: None) -> Iterator[SimulatedVCenter]:
    """The same for all tests of a module, for those that only look or use VMs of their own."""
    with SimulatedVCenter(datastores={"DS1": "VMFS", "DS2": "VMFS", "NFS1": "NFS", "VSAN1": "vsan"}) as simulated:
        yield simulated
