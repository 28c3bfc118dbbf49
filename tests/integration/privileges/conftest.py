"""A VM of its own for each test, worked on by an account that has exactly the privileges it is given."""

from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from pyVmomi import vim

from offhost.backup.destination import Destination
from offhost.chunking.workers import SpanWorkers
from support import repositories
from support.accounts import Deeds
from support.backed_up_vms import BackedUpVm
from support.pyvmomi_client import PlainClient
from support.sessions import connected
from support.tagging import tag
from support.vcenter import DiskSpec, SimulatedVCenter

_SIZE = 1 << 20
_numbers = count(1)


@pytest.fixture(scope="module")
def site(shared_vcenter: SimulatedVCenter) -> SimulatedVCenter:
    """A vCenter whose hosts listen, and which knows the custom attribute `owner`."""
    shared_vcenter.serve_hosts()
    with PlainClient(shared_vcenter) as client:
        client.content.customFieldsManager.AddCustomFieldDef("owner", vim.VirtualMachine)
    return shared_vcenter


@pytest.fixture
def destination(tmp_path: Path) -> Iterator[Destination]:
    root = repositories.make(tmp_path / "repository")
    with SpanWorkers(2) as workers, repositories.opened(root) as repository:
        yield Destination(repository, workers)


@pytest.fixture
def deeds_of(site: SimulatedVCenter, destination: Destination) -> Any:
    """`async with deeds_of(privileges) as deeds`: what an account with these can have done to a new VM."""

    @asynccontextmanager
    async def deeds(privileges: Collection[str]) -> AsyncIterator[Deeds]:
        number = next(_numbers)
        name, user = f"web{number:02}", f"offhost{number}@vsphere.local"
        site.set_role(user, "secret", privileges)
        moref = site.create_vm(name, [DiskSpec(_SIZE, repositories.noise(number, _SIZE // 2))], tools_running=True)
        tag(site, moref, "backup:gold")
        async with connected(site, user=user, password=lambda: "secret") as session, connected(site) as unlimited:
            web, administered = (BackedUpVm(site, one, destination, moref) for one in (session, unlimited))
            yield Deeds(web, administered, name)

    return deeds
