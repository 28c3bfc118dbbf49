from collections.abc import Iterator

import pytest

from offhost.chunking.workers import SpanWorkers


@pytest.fixture(scope="session")
def workers() -> Iterator[SpanWorkers]:
    with SpanWorkers(2) as workers:
        yield workers
