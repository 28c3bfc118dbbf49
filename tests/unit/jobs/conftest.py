from collections.abc import Iterator
from pathlib import Path

import pytest

from offhost.catalog import Catalog
from offhost.clock import SystemClock
from offhost.events import Event, Events
from offhost.jobs.runner import Runner
from offhost.jobs.slots import Slots
from offhost.state import State
from support.small_engine import SmallEngine


@pytest.fixture
def engine() -> SmallEngine:
    return SmallEngine()


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State.open(tmp_path / "state")


@pytest.fixture
def catalog(state: State) -> Iterator[Catalog]:
    opened = Catalog.open(state.catalog)
    yield opened
    opened.close()


@pytest.fixture
def told() -> list[Event]:
    """Every event that was published."""
    return []


@pytest.fixture
def runner(engine: SmallEngine, state: State, catalog: Catalog, told: list[Event]) -> Runner:
    events = Events()
    events.subscribe(told.append)
    return Runner(engine=engine, catalog=catalog, state=state, events=events, clock=SystemClock(), vms=4, slots=Slots())
