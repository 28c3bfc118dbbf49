"""What commands may know of this machine's offhost without being the daemon: its state, and the history of runs.

Owns: opening both for a command. Does not own: what they hold (state, catalog).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from offhost.catalog import Catalog, RunRow, VmRow
from offhost.config import Configuration
from offhost.state import State

__all__ = ["Catalog", "Local", "RunRow", "State", "VmRow", "local", "open_state"]


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
    """State and catalog for the scope. Safe beside a running daemon.

    Raises: StateError.
    """
    state = open_state(configuration)
    catalog = Catalog.open(state.catalog)
    try:
        yield Local(state, catalog)
    finally:
        catalog.close()
