"""Two repositories with different keys, and copies from one to the other."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from offhost.backup.destination import Destination
from offhost.backup.replication import Replication
from offhost.backup.report import PointCopy
from offhost.chunking.workers import SpanWorkers
from offhost.ids import image_id
from offhost.repository.points.manifest import Manifest
from offhost.repository.repository import Repository
from support.repositories import opened


def nobody(*_: object) -> None:
    """Listens to nothing."""


@contextmanager
def replicating(source: Path, destination: Path, workers: SpanWorkers) -> Iterator[Replication]:
    """A copier over two repositories in directories."""
    with opened(source) as here, opened(destination) as there:
        yield replication(here, there, workers)


def replication(source: Repository, destination: Repository, workers: SpanWorkers) -> Replication:
    return Replication(source, Destination(destination, workers), nobody, threading.Event())


def copy_all(of: Replication, *, name: str = "vm", missed_too: bool = True) -> list[PointCopy]:
    """Copy what is to be copied of a VM."""
    return of.run(of.relation(image_id(name)).wanted(missed_too=missed_too), nobody)


def states(copies: Sequence[PointCopy]) -> list[str]:
    return [copy.state for copy in copies]


def the_copy(of: Replication, point: Manifest) -> Manifest:
    """The point at the destination that is this one of the source."""
    (copy,) = of.relation(point.vm_id).copies_of(point)
    return copy
