"""A repository to back up into, and a session with a vCenter of the test's own."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from offhost.backup.destination import Destination
from offhost.chunking.workers import SpanWorkers
from offhost.vsphere.session import VSphere
from support import repositories
from support.sessions import connected
from support.vcenter import SimulatedVCenter


@pytest.fixture
def destination(tmp_path: Path) -> Iterator[Destination]:
    root = repositories.make(tmp_path / "repository")
    with SpanWorkers(2) as workers, repositories.opened(root) as repository:
        yield Destination(repository, workers)


@pytest.fixture
async def vsphere(vcenter: SimulatedVCenter) -> AsyncIterator[VSphere]:
    async with connected(vcenter) as session:
        yield session
