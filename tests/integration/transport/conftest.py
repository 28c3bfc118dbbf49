"""A session with a simulated vCenter, and its datastores' files."""

from collections.abc import AsyncIterator, Iterator

import pytest

from offhost.vsphere.folder import FolderAccess
from offhost.vsphere.session import VSphere
from support.sessions import connected
from support.vcenter import SimulatedVCenter


@pytest.fixture
async def vsphere(vcenter: SimulatedVCenter) -> AsyncIterator[VSphere]:
    """Logged in, and logged out at the end."""
    async with connected(vcenter) as session:
        yield session


@pytest.fixture
def folder(vsphere: VSphere) -> Iterator[FolderAccess]:
    """The files of the vCenter's datastores."""
    access = FolderAccess(vsphere)
    yield access
    access.close()
