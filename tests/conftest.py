"""Fixtures that any test may use: a simulated vCenter."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from support.vcenter import SimulatedVCenter, SimulatorError, SimulatorMissing, build

DATASTORES = {"DS1": "VMFS", "DS2": "VMFS", "NFS1": "NFS", "VSAN1": "vsan"}


SLOW = tuple(
    Path(__file__).parent / "integration" / folder
    for folder in ("backup", "daemon", "end_to_end", "kinds", "repository", "snapshot", "vsim")
)
"""Whole backups and processes: of these, the quick tests take those marked `narrow` only."""

IN_MEMORY = Path("/dev/shm")
_ROOM_BYTES = 4 << 30

settings.register_profile("quick", max_examples=20)


def pytest_configure(config: pytest.Config) -> None:
    """Let the tests' folders lie in memory where there is room: a repository is 272 directories, and many are made."""
    if os.access(IN_MEMORY, os.W_OK) and shutil.disk_usage(IN_MEMORY).free >= _ROOM_BYTES:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(IN_MEMORY))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs the simulator and what takes long, so that it can be left out."""
    for item in items:
        if "vcenter_binary" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.vsim)
        if any(item.path.is_relative_to(folder) for folder in SLOW) and not item.get_closest_marker("narrow"):
            item.add_marker(pytest.mark.slow)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build the simulator before the first test: it takes a minute at first, which no time limit of a test covers."""
    needed = any(item.get_closest_marker("vsim") for item in session.items)
    if needed and not session.config.option.collectonly:
        with contextlib.suppress(SimulatorMissing, SimulatorError):  # the fixture below says so, in its place
            build()


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
    with SimulatedVCenter(datastores=DATASTORES) as simulated:
        yield simulated


@pytest.fixture(scope="module")
def shared_vcenter(vcenter_binary: None) -> Iterator[SimulatedVCenter]:
    """The same for all tests of a module, for those that only look or use VMs of their own."""
    with SimulatedVCenter(datastores=DATASTORES) as simulated:
        yield simulated
