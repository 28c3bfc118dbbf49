"""What commands may know of this machine's offhost without being the daemon: its state, and the history of runs.

Owns: opening both, and closing the records of dead runs, whoever finds them. Does not own: what they hold (state,
catalog).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from offhost.catalog import Catalog, RunRow, VmRow
from offhost.clock import Clock, SystemClock, rfc3339
from offhost.config import Configuration
from offhost.ids import RunId
from offhost.state import State

__all__ = ["Catalog", "Local", "RunRow", "State", "VmRow", "end_interrupted", "local", "open_state"]


@dataclass(frozen=True, slots=True)
class Local:
    """The state directory and the catalog in it, open."""

    state: State
    catalog: Catalog


def open_state(configuration: Configuration) -> State:
    """The configuration's state directory, made when it is new.

    Raises: StateError.
    """
    return State.open(configuration.state)


@contextmanager
def local(configuration: Configuration) -> Iterator[Local]:
    """State and catalog for the scope, the records of dead runs closed. Safe beside a running daemon.

    Raises: StateError.
    """
    state = open_state(configuration)
    catalog = Catalog.open(state.catalog)
    try:
        end_interrupted(state, catalog, SystemClock())
        yield Local(state, catalog)
    finally:
        catalog.close()


def end_interrupted(state: State, catalog: Catalog, clock: Clock) -> list[RunId]:
    """Close the records of runs that no process executes any more, as failed; returns them.

    Raises: StateError.
    """
    dead = catalog.end_interrupted(state.is_dead, ended=rfc3339(clock.now()))
    for run_id in dead:
        state.forget_run(run_id)
    return dead
