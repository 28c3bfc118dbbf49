"""Commands killed with SIGKILL at any change they make: what was there is whole, and the same command completes."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from faults.campaign import LONG, Tally, some
from faults.story import World, assert_unharmed, forgot, third_disk
from support.repositories import PASSPHRASE, content, make, opened

KILLS = int(os.environ.get("OFFHOST_KILLS", "50"))

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600 + 20 * KILLS)]

Fresh = Callable[[], World]
TESTS = Path(__file__).parent.parent


@dataclass(frozen=True, slots=True)
class Shell:
    """Runs commands in a folder of their own."""

    folder: Path

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    def offhost(self, *arguments: object, fatal: int = 0) -> int:
        """The exit code of a command, of the signal if it was killed; how many changes it made is in `count`."""
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]),
            "XDG_CACHE_HOME": str(self.cache),
            "OFFHOST_PASSPHRASE": PASSPHRASE.text,
            "OFFHOST_FROM_PASSPHRASE": PASSPHRASE.text,
            "OFFHOST_TO_PASSPHRASE": PASSPHRASE.text,
        }
        command = [sys.executable, "-m", "faults.victim", str(fatal), str(self.folder / "count"), *map(str, arguments)]
        done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode in (0, 3, -signal.SIGKILL), done.stderr
        return done.returncode

    @property
    def count(self) -> int:
        return int((self.folder / "count").read_text())


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    path.write_bytes(third_disk()[0])
    return path


def moments(changes: int, few: int) -> Iterator[int]:
    """At which changes to kill: as many as were asked for, spread over all of them."""
    every = range(1, changes + 1)
    yield from some(every, few)[:: max(changes // KILLS, 1)] if LONG else some(every, few)


def commands(world: World, image: Path) -> dict[str, list[object]]:
    """Each on a repository; what it may change is put down in the world before."""
    at: list[object] = ["--repo", world.root]
    return {
        "backup": [*at, "backup", "image", image, "--name", "web"],
        "collection": [*at, "repo", "gc"],
        "rotation": [*at, "keys", "rotate", "--yes"],
        "rebuilding": [*at, "repo", "rebuild"],
        "verification": [*at, "repo", "verify", "--data"],
    }


@pytest.mark.parametrize("command", ["backup", "collection", "rotation", "rebuilding", "verification"])
def test_a_command_killed_at_any_change_harms_nothing(
    command: str, fresh: Fresh, shell: Shell, image: Path, tally: Tally
) -> None:
    def begun() -> World:
        world = fresh()
        world.perhaps.append(image.read_bytes())
        if command == "collection":
            with opened(world.root) as repository:
                forgot(world, repository)
        return world

    world = begun()
    assert shell.offhost(*commands(world, image)[command]) == 0
    assert_unharmed(world)
    for fatal in moments(shell.count, 1):
        world = begun()
        shell.offhost(*commands(world, image)[command], fatal=fatal)
        assert shell.offhost(*commands(world, image)[command]) == 0
        with opened(world.root, shell.cache / "offhost") as repository:
            repository.refresh()
        assert_unharmed(world)
        tally.count(f"{command} killed", 1)


def test_a_copy_killed_at_any_change_goes_on_where_it_was(
    template: World, shell: Shell, tmp_path: Path, tally: Tally
) -> None:
    def copied(number: int, fatal: int = 0) -> Path:
        there = tmp_path / f"there-{number}"
        if not there.exists():
            make(there)
        shell.offhost("copy", "--from", template.root, "--to", there, fatal=fatal)
        return there

    copied(0)
    for fatal in moments(shell.count, 1):
        assert_all_copied(template, copied(fatal, fatal), whole=False)
        assert_all_copied(template, copied(fatal), whole=True)
        tally.count("copy killed", 1)


def assert_all_copied(template: World, there: Path, *, whole: bool) -> None:
    """Only what the source holds is there, no point twice, and at the end all of it."""
    with opened(there) as repository:
        found = [content(repository, point) for point in repository.points.all()]
    wanted = list(template.committed.values())
    assert len(found) == len(set(found))
    assert set(found) == set(wanted) if whole else set(found) <= set(wanted)
