"""Sessions with the simulated vCenter."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from offhost.vsphere.inventory import find
from offhost.vsphere.session import VSphere
from offhost.vsphere.trust import Endpoint
from offhost.vsphere.values import Vm
from support.vcenter import SimulatedVCenter


def endpoint(simulated: SimulatedVCenter, **changes: Any) -> Endpoint:
    """How to reach the simulator; keyword arguments replace what is right."""
    right: dict[str, Any] = {
        "host": simulated.host,
        "port": simulated.port,
        "user": simulated.user,
        "password": lambda: simulated.password,
        "thumbprint": simulated.thumbprint,
        "retry_wait_s": 0.01,
    }
    return Endpoint(**{**right, **changes})


@asynccontextmanager
async def connected(simulated: SimulatedVCenter, **changes: Any) -> AsyncIterator[VSphere]:
    """A session for as long as the scope lasts."""
    vsphere = await VSphere.connect(endpoint(simulated, **changes))
    try:
        yield vsphere
    finally:
        await vsphere.close()


async def found(vsphere: VSphere, moref: str) -> Vm:
    """The VM as the inventory shows it now."""
    return await find(vsphere, moref)
