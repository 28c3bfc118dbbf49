from collections.abc import Iterator
from pathlib import Path

import pytest

from offhost.chunking.workers import SpanWorkers
from offhost.repository.repository import Repository
from support import repositories


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return repositories.make(tmp_path / "repository")


@pytest.fixture
def repository(root: Path) -> Iterator[Repository]:
    with repositories.opened(root) as repository:
        yield repository


@pytest.fixture(scope="session")
def workers() -> Iterator[SpanWorkers]:
    with SpanWorkers(2) as workers:
        yield workers
