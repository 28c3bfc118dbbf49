"""A proxy with a VM of its own for each test; the vCenter is shared by a module's tests."""

import shutil
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from offhost.repository.keys.credentials import Passphrase
from offhost.repository.keys.wrappers import Argon2Cost
from offhost.repository.repository import create
from support.site import PASSPHRASE, BackedUp, Site
from support.vcenter import SimulatedVCenter

_numbers = count(1)


@pytest.fixture(scope="session")
def empty_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository without restore points, to be copied; its passphrase is quick to try, for once."""
    path = tmp_path_factory.mktemp("repository") / "empty"
    create(path, Passphrase(PASSPHRASE), cost=Argon2Cost(time=1, memory_kib=8 << 10, lanes=1))
    return path


@pytest.fixture
def make_site(
    shared_vcenter: SimulatedVCenter, empty_repository: Path, tmp_path: Path
) -> Iterator[Callable[..., Site]]:
    """Makes a proxy with a VM; keyword arguments are those of Site."""

    def make(**values: int) -> Site:
        site = Site(tmp_path / "site", shared_vcenter, f"web{next(_numbers):02}", **values)
        shutil.copytree(empty_repository, site.repository)
        return site

    yield make
    shared_vcenter.rules([])


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    """A proxy that has not backed anything up yet."""
    return make_site()


@pytest.fixture
def backed_up(site: Site) -> BackedUp:
    """A proxy with one restore point of its VM, whose guest has written since."""
    said = site.run_job()
    assert said.code == 0, said.err
    earlier = BackedUp(site, site.seen())
    site.write(3 << 20, b"written after the first backup" * 10_000)
    return earlier
