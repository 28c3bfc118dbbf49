"""The size of the campaigns, and what they amounted to.

`make faults` sets OFFHOST_FAULTS=long: every call, every byte, every state. Without it a bounded part is drawn.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import TypeVar

import pytest

from faults.story import World, prepared
from offhost.chunking.workers import SpanWorkers

LONG = os.environ.get("OFFHOST_FAULTS") == "long"
RESULTS = Path(__file__).parent / "RESULTS.md"

T = TypeVar("T")

_injected: dict[str, int] = {}
_states: dict[str, int] = {}


class Tally:
    """Counts what a campaign did; violations are failures of its tests."""

    def count(self, campaign: str, faults: int, checks: int = 1) -> None:
        _injected[campaign] = _injected.get(campaign, 0) + faults
        _states[campaign] = _states.get(campaign, 0) + checks


@pytest.fixture(scope="session")
def tally() -> Tally:
    return Tally()


@pytest.fixture(scope="session")
def some() -> Callable[[Sequence[T], int], list[T]]:
    """All of a sequence in the long campaign; else so many, always the same ones."""

    def chosen(all_: Sequence[T], few: int) -> list[T]:
        return list(all_) if LONG or len(all_) <= few else Random(len(all_)).sample(list(all_), few)

    return chosen


@pytest.fixture(scope="session")
def workers() -> Iterator[SpanWorkers]:
    with SpanWorkers(2) as workers:
        yield workers


@pytest.fixture(scope="session")
def fast_folder() -> Iterator[Path]:
    """A folder in memory where there is one: thousands of repositories are made and flushed in it."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if os.access(shared, os.W_OK) else None) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def template(fast_folder: Path, workers: SpanWorkers) -> World:
    """The repository that each fault finds: to be copied, never changed."""
    return prepared(fast_folder / "template", workers)


@pytest.fixture
def fresh(template: World) -> Iterator[Callable[[], World]]:
    """Gives a new copy of the template; the one before is removed."""
    with tempfile.TemporaryDirectory(dir=template.root.parent) as folder:
        made: list[Path] = []

        def one() -> World:
            for old in made:
                shutil.rmtree(old)
            made[:] = [Path(folder) / "repository"]
            return template.copied(made[0])

        yield one


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what the campaigns amounted to; the long one's is kept."""
    if not _injected:
        return
    failed = len(terminalreporter.stats.get("failed", ()))
    rows = [f"| {name} | {_injected[name]:,} | {_states[name]:,} |" for name in sorted(_injected)]
    table = "\n".join(
        [
            "| campaign | faults injected | repositories checked afterwards |",
            "|---|---:|---:|",
            *rows,
            f"| **all** | **{sum(_injected.values()):,}** | **{sum(_states.values()):,}** |",
            "",
            f"Tests that found a violation: {failed}.",
        ]
    )
    terminalreporter.section("faults")
    terminalreporter.write_line(table)
