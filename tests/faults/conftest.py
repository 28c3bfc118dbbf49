"""What all campaigns share: a repository to copy, workers, the tally."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from faults.campaign import Tally
from faults.story import World, prepared
from offhost.chunking.workers import SpanWorkers

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
    """Print what the campaigns amounted to; OFFHOST_FAULTS_REPORT names the file whose table that becomes."""
    if not _tally.injected:
        return
    found = f"{_tally.table()}\n\nViolations left: {len(terminalreporter.stats.get('failed', ()))}.\n"
    terminalreporter.section("faults")
    terminalreporter.write_line(found)
    if report := os.environ.get("OFFHOST_FAULTS_REPORT"):
        _, heading, mended = Path(report).read_text().partition("## Found and mended")
        Path(report).write_text(f"{_HEAD}{found}\n{heading}{mended}")


_HEAD = """# Faults

`make faults` (every call, byte and state, 50 kills of each command) wrote this table. A part of it runs in `make test`.

"""
