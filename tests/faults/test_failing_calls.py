"""A store that fails at its k-th call, for every k: nothing that was stored before is harmed, and no point is false."""

from collections.abc import Callable

import pytest

from faults.campaign import Tally, some
from faults.story import WRITING, World, assert_unharmed, attempt
from offhost.backend.local import LocalBackend
from support.faulty_backend import HOWS, REFUSALS, Fault, FaultyBackend, How

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

Fresh = Callable[[], World]


def calls_of(world: World) -> list[str]:
    """What the steps call when nothing fails."""
    backend = FaultyBackend(LocalBackend(world.root))
    attempt(world, backend, WRITING)
    assert_unharmed(world)
    assert len(world.committed) > 5, "without faults everything is committed"
    return backend.calls


@pytest.mark.parametrize("how", HOWS)
def test_a_call_that_fails_once_harms_nothing(how: How, fresh: Fresh, tally: Tally) -> None:
    for at in some(range(len(calls_of(fresh()))), 8):
        world = fresh()
        backend = FaultyBackend(LocalBackend(world.root), Fault(at, how))
        attempt(world, backend, WRITING)
        assert_unharmed(world)
        tally.count(f"the k-th call: {how}", backend.injected)


@pytest.mark.parametrize("how", [*REFUSALS, "reply lost"])
def test_a_store_that_fails_from_some_call_on_harms_nothing(how: How, fresh: Fresh, tally: Tally) -> None:
    for at in some(range(len(calls_of(fresh()))), 4):
        world = fresh()
        backend = FaultyBackend(LocalBackend(world.root), Fault(at, how, lasting=True))
        attempt(world, backend, WRITING)
        assert_unharmed(world)
        tally.count(f"from the k-th call on: {how}", backend.injected)


def test_a_store_that_is_full_after_some_bytes_harms_nothing(fresh: Fresh, tally: Tally) -> None:
    for budget_bytes in some(range(0, 420_000, 3_500), 8):
        world = fresh()
        backend = FaultyBackend(LocalBackend(world.root), budget_bytes=budget_bytes)
        attempt(world, backend, WRITING)
        assert_unharmed(world)
        tally.count("full after n bytes", backend.injected)
