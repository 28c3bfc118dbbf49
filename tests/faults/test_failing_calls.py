"""A store that fails at its k-th call, for every k: nothing that was stored before is harmed, and no point is false."""

from collections.abc import Callable

import pytest

from faults.campaign import Tally, some
from faults.story import STORIES, World, assert_unharmed, attempt
from offhost.backend.local import LocalBackend
from support.faulty_backend import HOWS, REFUSALS, Fault, FaultyBackend, How

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

Fresh = Callable[[], World]


@pytest.fixture(scope="module")
def calls(template: World) -> dict[str, int]:
    """How many calls each story makes when nothing fails."""
    counts: dict[str, int] = {}
    for story, steps in STORIES.items():
        world = template.copied(template.root.parent / story)
        backend = FaultyBackend(LocalBackend(world.root))
        attempt(world, backend, steps)
        assert len(world.committed) > len(template.committed), "without faults points are committed"
        assert_unharmed(world)
        counts[story] = len(backend.calls)
    return counts


@pytest.mark.parametrize("story", STORIES)
@pytest.mark.parametrize("how", HOWS)
def test_a_call_that_fails_once_harms_nothing(
    how: How, story: str, fresh: Fresh, calls: dict[str, int], tally: Tally
) -> None:
    for at in some(range(calls[story]), 1):
        world = fresh()
        backend = FaultyBackend(LocalBackend(world.root), Fault(at, how))
        attempt(world, backend, STORIES[story])
        assert_unharmed(world)
        tally.count(f"{story}: the k-th call {how}", backend.injected)


@pytest.mark.parametrize("story", STORIES)
@pytest.mark.parametrize("how", [*REFUSALS, "reply lost"])
def test_a_store_that_fails_from_some_call_on_harms_nothing(
    how: How, story: str, fresh: Fresh, calls: dict[str, int], tally: Tally
) -> None:
    for at in some(range(0, calls[story], 3), 1):
        world = fresh()
        backend = FaultyBackend(LocalBackend(world.root), Fault(at, how, lasting=True))
        attempt(world, backend, STORIES[story])
        assert_unharmed(world)
        tally.count(f"{story}: all calls from the k-th on {how}", backend.injected)


@pytest.mark.parametrize("story", STORIES)
def test_a_store_that_is_full_after_some_bytes_harms_nothing(story: str, fresh: Fresh, tally: Tally) -> None:
    for budget_bytes in some(range(0, 420_000, 7_000), 1):
        world = fresh()
        backend = FaultyBackend(LocalBackend(world.root), budget_bytes=budget_bytes)
        attempt(world, backend, STORIES[story])
        assert_unharmed(world)
        tally.count(f"{story}: full after n bytes", backend.injected)
