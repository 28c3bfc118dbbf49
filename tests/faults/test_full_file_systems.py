"""A real file system that is full at any moment: nothing is harmed, and with room again all goes on."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from faults.campaign import Tally, some
from faults.story import STORIES, World, assert_unharmed, attempt
from offhost.backend.local import LocalBackend

pytestmark = [pytest.mark.slow, pytest.mark.root, pytest.mark.timeout(3600)]

ROOM_KIB = 64 << 10


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A file system in memory, to be made smaller and larger."""
    if os.geteuid() != 0 or mount("-t", "tmpfs", "-o", f"size={ROOM_KIB}k", "tmpfs", tmp_path):
        pytest.skip("mounting a small file system needs root, and a machine that lets it")
    yield tmp_path
    subprocess.run(["umount", "--lazy", tmp_path], check=True)


def mount(*arguments: object) -> int:
    return subprocess.run(["mount", *map(str, arguments)], check=False, capture_output=True).returncode


@contextmanager
def room_for(place: Path, more_kib: int) -> Iterator[None]:
    """Only so much more fits, for as long as the scope lasts."""
    filler = place / "filler"
    left = os.statvfs(place)
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(left.f_bavail * left.f_frsize - (more_kib << 10), 1))
    try:
        yield
    finally:
        filler.unlink()


@pytest.mark.parametrize("story", STORIES)
def test_a_full_file_system_harms_nothing(story: str, template: World, place: Path, tally: Tally) -> None:
    for more_kib in some(range(0, 1200, 12), 1):
        world = template.copied(place / f"repository-{more_kib}")
        with room_for(place, more_kib):
            attempt(world, LocalBackend(world.root), STORIES[story])
        assert_unharmed(world)
        assert not list((world.root / "tmp").iterdir())
        subprocess.run(["rm", "-rf", world.root], check=True)
        tally.count(f"{story}: a full file system", 1)
