"""A disk out of a repository into a file: by spans, in worker threads, zeros left out.

Owns: what is written and what stays a hole. Does not own: the target's name and life, checking what is read, which the
repository does with every byte.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from offhost.blockio import ReadAt, WriteAt
from offhost.chunking.spans import SPAN_BYTES
from offhost.chunking.workers import SpanWorkers, touched_spans

_GRAIN_BYTES = 64 << 10

Progress = Callable[[int], object]
"""Told how many bytes more are done, holes included, one call at a time from any thread; raising ends the copy."""


class Part(Protocol):
    """Spans of a disk that are read together. Thread-safe."""

    @property
    def spans(self) -> Sequence[int]:
        """In the order in which they are best read."""
        ...

    def pieces(self, span: int) -> AbstractContextManager[Iterable[tuple[int, memoryview]]]:
        """What is to be written once a span was read, anywhere on the disk; valid within the scope.

        Each byte of the part that is not in a hole is in a piece of one of its spans.
        """
        ...


@runtime_checkable
class Planner(Protocol):
    """A source that reads once what belongs to several places."""

    def parts(self, spans: Iterable[int], workers: SpanWorkers, stop: threading.Event) -> Iterator[Part]:
        """All of these spans, part by part, each to be done with before the next is asked for."""
        ...


@dataclass(frozen=True, slots=True)
class _InOrder:
    """The spans of any source, each written where it was read."""

    source: ReadAt
    workers: SpanWorkers
    spans: Sequence[int]

    @contextmanager
    def pieces(self, span: int) -> Iterator[Iterable[tuple[int, memoryview]]]:
        """The span without its zeros."""
        buffer = self.workers.buffer()[: _length(self.source, span)]
        self.source.read_into(span * SPAN_BYTES, buffer)
        yield ((span * SPAN_BYTES + low, buffer[low:high]) for low, high in _data(buffer))


def copy_out(source: ReadAt, target: WriteAt, workers: SpanWorkers, progress: Progress) -> None:
    """Write all of a disk that is not zeros to a target that reads as zeros, each byte once; make it durable.

    Raises: the first error of source, target or `progress`.
    """
    spans = touched_spans(source.allocated())
    lock = threading.Lock()
    stop = threading.Event()
    progress(source.size_bytes - sum(_length(source, span) for span in spans))
    parts = source.parts(spans, workers, stop) if isinstance(source, Planner) else [_InOrder(source, workers, spans)]
    for part in parts:

        def one(span: int, part: Part = part) -> None:
            with part.pieces(span) as pieces:
                for at, data in pieces:
                    target.write_at(at, data)
            with lock:
                progress(_length(source, span))

        workers.each(part.spans, one, stop)
    target.sync()


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
