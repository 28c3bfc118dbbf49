"""What all campaigns share: a repository to copy, workers, the tally."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from faults.campaign import LONG, Tally
from faults.story import World, prepared
from offhost.chunking.workers import SpanWorkers

RESULTS = Path(__file__).parent / "RESULTS.md"

_tally = Tally()


@pytest.fixture(scope="session")
def tally() -> Tally:
    return _tally


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
        root = Path(folder) / "repository"

        def one() -> World:
            shutil.rmtree(root, ignore_errors=True)
            return template.copied(root)

        yield one


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what the campaigns amounted to; the long one's is kept beside the tests."""
    if not _tally.injected:
        return
    violations = f"Violations left: {len(terminalreporter.stats.get('failed', ()))}."
    terminalreporter.section("faults")
    terminalreporter.write_line(f"{_tally.table()}\n\n{violations}")
    if LONG:
        terminalreporter.write_line(f"To be kept in {RESULTS}.")
