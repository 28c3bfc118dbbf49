"""A repository whose file system is full: told once, earlier restore points read back, and there is a way on."""

import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.site import DISK_BYTES, BackedUp, Site

SMALL_BYTES = 16 << 20


@pytest.fixture
def small_place(tmp_path: Path) -> Iterator[Path]:
    """An empty file system of `SMALL_BYTES`."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SMALL_BYTES}", "tmpfs", str(place)], check=False)
    if mounted.returncode:
        pytest.skip("this container may not mount")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.root
@pytest.mark.slow
def test_a_repository_that_fills_up_while_it_is_written(make_site: Callable[..., Site], small_place: Path) -> None:
    site = make_site()
    shutil.move(site.repository, small_place / "repository")
    site.repository.symlink_to(small_place / "repository")
    assert site.run_job().code == 0
    backed_up = BackedUp(site, site.seen())
    site.write(0, random.Random(1).randbytes(DISK_BYTES))
    for _ in range(2):
        said = site.run_job()
        assert said.code == 1
        error, hint = said.told_once()
        assert str(site.repository) in error
        assert "space" in error + hint
        backed_up.assert_unharmed()
    room = f"size={3 * SMALL_BYTES}"
    subprocess.run(["mount", "-o", f"remount,{room}", str(small_place)], check=True)
    assert site.run_job().code == 0
    assert site.restored(f"{site.name}@latest") == site.seen()
    backed_up.assert_unharmed(points=2)
