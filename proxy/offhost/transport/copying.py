"""A disk out of a repository into a file: by spans, in worker threads, zeros left out.

Owns: what is written and what stays a hole. Does not own: the target's name and life, checking what is read, which the
repository does with every byte.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol, runtime_checkable

import numpy as np

from offhost.blockio import ReadAt, WriteAt
from offhost.chunking.spans import SPAN_BYTES
from offhost.chunking.workers import SpanWorkers, touched_spans

_GRAIN_BYTES = 64 << 10

Progress = Callable[[int], object]
"""Told how many bytes more are done, holes included, one call at a time from any thread; raising ends the copy."""


@runtime_checkable
class Lender(Protocol):
    """A source that may have a span in memory of its own already, or soon."""

    def lent(self, offset: int, length: int) -> AbstractContextManager[memoryview | None]:
        """A whole span's bytes for as long as the scope lasts; None where `read_into` does as well."""
        ...


def copy_out(source: ReadAt, target: WriteAt, workers: SpanWorkers, progress: Progress) -> None:
    """Write all of a disk that is not zeros to a target that reads as zeros, each byte once; make it durable.

    Raises: the first error of source, target or `progress`.
    """
    spans = touched_spans(source.allocated())
    lock = threading.Lock()
    progress(source.size_bytes - sum(_length(source, span) for span in spans))

    def one(span: int) -> None:
        start = span * SPAN_BYTES
        with _read(source, span, workers) as buffer:
            for low, high in _data(buffer):
                target.write_at(start + low, buffer[low:high])
        with lock:
            progress(_length(source, span))

    workers.each(spans, one, threading.Event())
    target.sync()


@contextmanager
def _read(source: ReadAt, span: int, workers: SpanWorkers) -> Iterator[memoryview]:
    """A span's bytes while the scope lasts: as the source lends them, or in this thread's buffer."""
    start, length = span * SPAN_BYTES, _length(source, span)
    with source.lent(start, length) if isinstance(source, Lender) else nullcontext() as lent:
        buffer = lent or workers.buffer()[:length]
        if lent is None:
            source.read_into(start, buffer)
        yield buffer


def _length(source: ReadAt, span: int) -> int:
    return min(SPAN_BYTES, source.size_bytes - span * SPAN_BYTES)


def _data(buffer: memoryview) -> Iterator[tuple[int, int]]:
    """The ranges of a span that are not zeros, by grains of 64 KiB."""
    size = len(buffer)
    grains = np.frombuffer(buffer, np.uint8)
    if size % _GRAIN_BYTES:
        grains = np.concatenate([grains, np.zeros(-size % _GRAIN_BYTES, np.uint8)])
    full = grains.view(np.uint64).reshape(-1, _GRAIN_BYTES // 8).any(axis=1)
    edges = np.flatnonzero(np.diff(full, prepend=False, append=False)) * _GRAIN_BYTES
    for low, high in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        yield low, min(high, size)
