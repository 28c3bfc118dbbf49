"""A running VM with a disk, and a repository to back it up into."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from offhost.backup.destination import Destination
from offhost.chunking.workers import SpanWorkers
from offhost.vsphere.session import VSphere
from support import repositories
from support.backed_up_vms import BackedUpVm
from support.sessions import connected
from support.vcenter import DiskSpec, SimulatedVCenter

SIZE = 8 << 20


@pytest.fixture
def destination(tmp_path: Path) -> Iterator[Destination]:
    root = repositories.make(tmp_path / "repository")
    with SpanWorkers(2) as workers, repositories.opened(root) as repository:
        yield Destination(repository, workers)


@pytest.fixture
async def vsphere(vcenter: SimulatedVCenter) -> AsyncIterator[VSphere]:
    async with connected(vcenter) as session:
        yield session


@pytest.fixture
def web(vcenter: SimulatedVCenter, vsphere: VSphere, destination: Destination) -> BackedUpVm:
    content = repositories.noise(7, SIZE // 2)
    moref = vcenter.create_vm("web", [DiskSpec(SIZE, content)], tools_running=True)
    return BackedUpVm(vcenter, vsphere, destination, moref)
