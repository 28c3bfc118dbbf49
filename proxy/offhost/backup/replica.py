"""One disk of a restore point on its way to another repository.

Owns: which areas have to be read, and the comparison of what arrived. Does not own: the copy (copy), the point
(replication).
"""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from offhost.backup.copy import DiskCopy, map_of
from offhost.backup.destination import Destination
from offhost.blockio import ReadAt
from offhost.chunking.spans import SPAN_BYTES, identify
from offhost.chunking.workers import touched_spans
from offhost.errors import ChunkCorrupt, IntegrityError
from offhost.extents import Extent, ExtentMap
from offhost.repository.points.changes import changed_areas
from offhost.repository.points.diskmap import DiskMap
from offhost.repository.points.manifest import PointDisk
from offhost.repository.points.restorepoint import RestorePoint
from offhost.repository.repository import Repository
from offhost.repository.session import WriteSession

_log = logging.getLogger(__name__)

DiskProgress = Callable[[str, int, int], None]
"""Told what is done to which disk, bytes done and bytes in all; from any thread."""


@dataclass(frozen=True, slots=True)
class Base:
    """What a copy can build on: a point of the destination, and where it is known, the same point of the source."""

    copy: RestorePoint | None
    original: RestorePoint | None = None


@contextmanager
def of_repository(repository: Repository) -> Iterator[None]:
    """Say of damage in which of the two repositories it is."""
    try:
        yield
    except IntegrityError as error:
        where = repository.backend.location
        usual = error.hint == IntegrityError.usual_hint
        hint = f"`offhost --repo {where} repo verify --data` says what is harmed" if usual else error.hint
        raise type(error)(f"{where}: {error.message}", hint=hint) from error


@dataclass(frozen=True, slots=True)
class _DiskOf:
    """A disk of a point as ReadAt, whose damage is said to be its repository's."""

    repository: Repository
    disk: ReadAt

    @property
    def size_bytes(self) -> int:
        return self.disk.size_bytes

    def read_into(self, offset: int, buffer: memoryview) -> None:
        with of_repository(self.repository):
            self.disk.read_into(offset, buffer)

    def allocated(self) -> ExtentMap:
        return self.disk.allocated()

    def close(self) -> None:
        self.disk.close()


@dataclass(slots=True)
class DiskReplica:
    """The copy of one disk: `copy.run`, `copy.finish`, and once that is durable `check`; all may be repeated.

    `areas` None: the disk is read whole, and `reason` says why.
    """

    source: Repository
    destination: Destination
    original: RestorePoint
    disk: PointDisk
    base: Base
    session: WriteSession
    progress: DiskProgress
    label: str = field(init=False)
    map: DiskMap = field(init=False)
    areas: ExtentMap | None = field(init=False)
    reason: str | None = field(init=False)
    copy: DiskCopy = field(init=False)

    def __post_init__(self) -> None:
        self.label = f"{self.original.manifest.vm_name} {self.disk.label}"
        with of_repository(self.source):
            reader = self.original.disk(self.disk.key)
        self.map = reader.map
        before = map_of(self.base.copy, self.disk.key)
        self.areas, self.reason = self._areas(before)
        self.copy = DiskCopy(
            _DiskOf(self.source, reader),
            self.session,
            self.destination.chunking,
            self.destination.workers,
            base=before,
            areas=self.areas,
            progress=partial(self.progress, self.label),
        )

    def _areas(self, copy: DiskMap | None) -> tuple[ExtentMap | None, str | None]:
        """What has changed since the base, of which `copy` is the disk's map; None for all of it and why."""
        original = map_of(self.base.original, self.disk.key)
        if copy is None or original is None:
            return None, "no earlier point of it is at both places"
        if copy.ref.cutter != self.destination.chunking.cutter.identity:
            return None, f"its last copy was cut by {copy.ref.cutter}"
        if not copy.ref.size_bytes == original.ref.size_bytes == self.disk.size_bytes:
            return None, f"its size was {original.ref.size_bytes} bytes, now {self.disk.size_bytes}"
        try:
            return changed_areas(original, self.map), None
        except IntegrityError as error:
            _log.warning("what changed since the last copy cannot be told: %s", error)
            return None, "the map of an earlier point, or its own, is damaged"

    def check(self, arrived: RestorePoint, stop: threading.Event) -> None:
        """Read what was copied back from the destination, and identify it with the source's key: no bit was lost.

        It costs one reading at the destination and two hashes; the source's content is not read again. What `areas`
        leaves out was compared when the base was copied.
        Raises: IntegrityError; Stopped.
        """
        there = self.destination.repository
        with of_repository(there):
            copy = arrived.disk(self.disk.key)
        areas = self.copy.source.allocated().union(copy.allocated()) if self.areas is None else self.areas
        lock, done, total = threading.Lock(), 0, areas.total_bytes
        self.progress(f"{self.label}, as it arrived", done, total)

        def one(span: int) -> None:
            nonlocal done
            within = areas.clip(span * SPAN_BYTES, (span + 1) * SPAN_BYTES)
            self._check_span(span, within, _DiskOf(there, copy))
            with lock:
                done += within.total_bytes
                self.progress(f"{self.label}, as it arrived", done, total)

        self.destination.workers.each(touched_spans(areas), one, stop)

    def _check_span(self, span: int, areas: ExtentMap, copy: ReadAt) -> None:
        """Each of the source's chunks lies in the areas as a whole or not at all; where there is none are zeros."""
        start, buffer = span * SPAN_BYTES, self.destination.workers.buffer()
        where = f"{self.destination.repository.backend.location}: disk {self.disk.key}"
        for area in areas:
            copy.read_into(area.start, buffer[area.start - start : area.end - start])
        with of_repository(self.source):
            chunks = [ref for ref in self.map.span(span) if start + ref.start in areas]
        for at, length, chunk in chunks:
            if identify(buffer[at : at + length], self.source.keyring.id_key) != chunk:
                raise ChunkCorrupt(f"{where}, byte {start + at}: what arrived is not what its source holds")
        for hole in areas.minus(ExtentMap(Extent(start + at, start + at + length) for at, length, _ in chunks)):
            if np.frombuffer(buffer[hole.start - start : hole.end - start], np.uint8).any():
                raise ChunkCorrupt(f"{where}, byte {hole.start}: what arrived is a hole at its source")
