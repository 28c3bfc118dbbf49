"""A store that fails while damage is found and healed: nothing whole is harmed by it, and the next attempt heals."""

from collections.abc import Callable
from pathlib import Path

import pytest

from faults.campaign import Tally, some
from faults.story import World, assert_unharmed, attempt, restored, second_disk, verified
from offhost.backend.local import LocalBackend
from offhost.errors import IntegrityError
from offhost.extents import ExtentMap
from offhost.repository.repository import Repository
from support.faulty_backend import HOWS, Fault, FaultyBackend, How
from support.repositories import content, opened

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

Fresh = Callable[[], World]


@pytest.fixture
def hurt(fresh: Fresh) -> Fresh:
    """Gives a new copy of the template in which the first chunk of a VM has a flipped bit."""

    def one() -> World:
        world = fresh()
        with opened(world.root) as repository:
            point = repository.points.find("web@latest")
            chunk = next(iter(repository.restore_point(point).disk().map.span(0))).id
            (place,) = repository.store.index.look_up([chunk])
            assert place
        flip(world.root / "packs" / place.pack[:2] / place.pack, place.offset)
        return world

    return one


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def backed_up_again(world: World, repository: Repository) -> None:
    """The VM has not changed since its last point."""
    world.store(repository, "web", second_disk()[0], ExtentMap([]))


HEALING = (verified, backed_up_again, restored)


@pytest.fixture(scope="module")
def calls(template: World) -> int:
    """How many calls healing makes when nothing fails."""
    world = template.copied(template.root.parent / "healing")
    backend = FaultyBackend(LocalBackend(world.root))
    attempt(world, backend, HEALING)
    return len(backend.calls)


@pytest.mark.parametrize("how", HOWS)
def test_a_call_that_fails_while_healing_harms_nothing(how: How, hurt: Fresh, calls: int, tally: Tally) -> None:
    for at in some(range(calls), 1):
        world = hurt()
        backend = FaultyBackend(LocalBackend(world.root), Fault(at, how))
        attempt(world, backend, HEALING)
        with opened(world.root) as repository:
            assert_none_wrong(world, repository)
            verified(world, repository)
            backed_up_again(world, repository)
        assert_unharmed(world)
        tally.count(f"healing: the k-th call {how}", backend.injected)


def assert_none_wrong(world: World, repository: Repository) -> None:
    """What needs the hurt chunk may be refused; nothing reads back wrong."""
    for point in repository.points.all():
        try:
            data = content(repository, point)
        except IntegrityError:
            continue
        assert data == world.committed.get(point.id, second_disk()[0])
