"""A restore point's disks, read end to end as a restore would, and compared with the root digest in its manifest.

Owns: the recomputation, from the bytes read back alone, of everything the root digest covers. Does not own: reading
(restorepoint), which checks each chunk, or the rest of the repository (verify).
"""

import threading
from collections.abc import Callable
from functools import partial

import numpy as np

from offhost.chunking.spans import SPAN_BYTES, ChunkRef, SpanMap, identify
from offhost.chunking.workers import SpanWorkers
from offhost.errors import IntegrityError, PackCorrupt
from offhost.repository.chunks.packs import Kind
from offhost.repository.points.diskmap import DiskMap, root_digest
from offhost.repository.points.leaves import span_digest
from offhost.repository.points.manifest import PointDisk
from offhost.repository.points.restorepoint import PointDiskReader, RestorePoint
from offhost.repository.verification.damage import Damage
from offhost.repository.verification.verify import VerifyReport

_NO_DIGEST = bytes(32)

DiskProgress = Callable[[str, int, int], object]
"""Told a disk's key, bytes done and in all, from any thread; holes that fill a span are not counted."""


def verify_point(
    point: RestorePoint, key: str | None, *, workers: SpanWorkers, progress: DiskProgress, stop: threading.Event
) -> VerifyReport:
    """Read one disk of a point, or all its disks and files, to the end. Blocking.

    Damage is in the report. Raises: NotFound; Stopped.
    """
    report = VerifyReport(points=1)
    named = f"{point.manifest.vm_name}, point {point.manifest.id[:12]}"
    for disk in [point.choose(key)] if key else point.manifest.disks:
        check = _DiskCheck(point, disk, workers, partial(progress, disk.key))
        try:
            damage = check.run(stop)
        except IntegrityError as error:
            damage = [str(error)]
        report.damage += [Damage(what, (f"{named}, disk {disk.key}",)) for what in damage]
        report.read_bytes += check.read_bytes
    for file in point.manifest.files if key is None else ():
        try:
            report.read_bytes += len(point.file(file))
        except IntegrityError as error:
            report.damage.append(Damage(str(error), (f"{named}, file {file.name}",)))
    return report


class _DiskCheck:
    """One disk, read by several threads."""

    def __init__(
        self, point: RestorePoint, disk: PointDisk, workers: SpanWorkers, progress: Callable[[int, int], object]
    ) -> None:
        self._point, self._disk, self._workers, self._progress = point, disk, workers, progress
        self._id_key, self._metadata_key = point.reader.id_key(Kind.CONTENT), point.metadata_id_key
        self._lock = threading.Lock()
        self.read_bytes = 0
        self._damage: list[str] = []

    def run(self, stop: threading.Event) -> list[str]:
        """What is wrong. Raises: IntegrityError when the map cannot be opened; Stopped."""
        map_ = self._point.map(self._disk)
        reader = PointDiskReader(map_, self._point.reader)
        digests = [_NO_DIGEST] * len(map_)
        spans = [span for span in range(len(map_)) if map_.leaf(span) is not None]
        total = sum(map(self._length, spans))

        def one(span: int) -> None:
            buffer = self._workers.buffer()[: self._length(span)]
            try:
                reader.read_into(span * SPAN_BYTES, buffer)
                digests[span] = self._recomputed(map_, span, buffer)
            except IntegrityError as error:
                with self._lock:
                    self._damage.append(f"span {span}: {error}")
            with self._lock:
                self.read_bytes += len(buffer)
                self._progress(self.read_bytes, total)

        self._workers.each(spans, one, stop)
        ref = map_.ref
        if not self._damage and root_digest(ref.size_bytes, ref.cutter, digests, self._metadata_key) != ref.root:
            self._damage.append("what is read back has another root digest than the manifest says")
        return self._damage

    def _length(self, span: int) -> int:
        return min(SPAN_BYTES, self._disk.size_bytes - span * SPAN_BYTES)

    def _recomputed(self, map_: DiskMap, span: int, buffer: memoryview) -> bytes:
        """The digest that the map must have of these bytes. Raises: PackCorrupt for bytes in what it calls a hole."""
        read = np.frombuffer(buffer, np.uint8)
        refs, at = [], 0
        for start, length, _ in map_.span(span):
            refs.append(ChunkRef(start, length, identify(buffer[start : start + length], self._id_key)))
            if read[at:start].any():
                raise PackCorrupt(f"bytes where the map has a hole, before {start}")
            at = start + length
        if read[at:].any():
            raise PackCorrupt(f"bytes where the map has a hole, from {at} on")
        return span_digest(SpanMap.of(refs), self._metadata_key) if refs else _NO_DIGEST
