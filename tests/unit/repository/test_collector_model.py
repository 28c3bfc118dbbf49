"""The protocol of collection, explored whole: nothing is ever lost, and without any one of its rules it is."""

import os
from typing import Any

import pytest

from support.collector_model import Rules, explore

CAMPAIGN = os.environ.get("OFFHOST_FAULTS") == "long"
"""Set by `make faults`: worlds that take minutes to explore."""


@pytest.mark.parametrize(
    ("writers", "readers", "collectors", "generations"), [(1, 0, 1, 2), (1, 1, 1, 1), (1, 0, 2, 1)]
)
def test_nothing_is_ever_lost(writers: int, readers: int, collectors: int, generations: int) -> None:
    outcome = explore(writers=writers, readers=readers, collectors=collectors, generations=generations)
    assert outcome.worlds > 1000
    assert outcome.loss is None


@pytest.mark.slow
def test_a_pin_that_holds_keeps_its_point() -> None:
    assert explore(writers=1, collectors=1, pinned=True).loss is None


@pytest.mark.slow
@pytest.mark.skipif(not CAMPAIGN, reason="takes minutes: `make faults` runs it")
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("writers", "readers", "collectors"), [(1, 1, 1), (2, 0, 1), (1, 0, 2), (0, 1, 2)])
def test_nothing_is_ever_lost_in_two_collections(writers: int, readers: int, collectors: int) -> None:
    assert explore(writers=writers, readers=readers, collectors=collectors, generations=2).loss is None


@pytest.mark.slow
@pytest.mark.parametrize("rule", Rules._fields)
def test_no_rule_can_be_left_out(rule: str) -> None:
    broken = Rules()._replace(**{rule: False})
    worlds: tuple[dict[str, Any], ...] = (
        {"writers": 1, "readers": 0, "collectors": 1},
        {"writers": 1, "readers": 1, "collectors": 1, "generations": 1},
        {"writers": 1, "readers": 0, "collectors": 1, "generations": 1, "pinned": True},
        {"writers": 1, "readers": 0, "collectors": 2},
    )
    losses = (explore(broken, **world).loss for world in worlds)
    assert any(losses)
