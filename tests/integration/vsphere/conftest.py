"""A session with a simulated vCenter of the test's own."""

from collections.abc import AsyncIterator

import pytest

from offhost.vsphere.session import VSphere
from support.sessions import connected
from support.vcenter import SimulatedVCenter


@pytest.fixture
async def vsphere(vcenter: SimulatedVCenter) -> AsyncIterator[VSphere]:
    """Logged in, and logged out at the end."""
    async with connected(vcenter) as session:
        yield session
