"""A disk of a restore point as a raw file.

Owns: the copy out of a repository, that a file appears under its name only when it is whole. Does not own: checking
what is read, which the repository does with every byte.
"""

import errno
import os
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np

from offhost.blockio import FileWriteAt, ReadAt, WriteAt
from offhost.chunking.spans import SPAN_BYTES
from offhost.chunking.workers import SpanWorkers, touched_spans
from offhost.errors import Conflict, NoSpace, RestoreFailed, UsageError

_GRAIN_BYTES = 64 << 10

Progress = Callable[[int, int], None]
"""Told bytes done and bytes in all; from any thread."""


def copy_out(
    source: ReadAt, target: WriteAt, workers: SpanWorkers, *, progress: Progress, stop: threading.Event
) -> None:
    """Write all of a disk that is not zeros to a target that reads as zeros, and make it durable.

    Raises: IntegrityError from the source; Stopped; OSError from the target.
    """
    allocated = source.allocated()
    spans = touched_spans(allocated)
    lock, done, total = threading.Lock(), 0, allocated.total_bytes

    def one(span: int) -> None:
        nonlocal done
        start = span * SPAN_BYTES
        buffer = workers.buffer()[: min(SPAN_BYTES, source.size_bytes - start)]
        source.read_into(start, buffer)
        for low, high in _data(buffer):
            target.write_at(start + low, buffer[low:high])
        with lock:
            done += len(buffer)
            progress(done, total)

    progress(0, total)
    workers.each(spans, one, stop)
    target.sync()


def _data(buffer: memoryview) -> Iterator[tuple[int, int]]:
    """The ranges of a span that are not zeros, by grains of 64 KiB."""
    size = len(buffer)
    padded = np.zeros(-(-size // _GRAIN_BYTES) * _GRAIN_BYTES, np.uint8) if size % _GRAIN_BYTES else None
    if padded is not None:
        padded[:size] = buffer
    grains = (
        (np.frombuffer(buffer, np.uint8) if padded is None else padded).view(np.uint64).reshape(-1, _GRAIN_BYTES // 8)
    )
    edges = np.flatnonzero(np.diff(grains.any(axis=1), prepend=False, append=False)) * _GRAIN_BYTES
    for low, high in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        yield low, min(high, size)


def restore_disk(source: ReadAt, to: Path, workers: SpanWorkers, *, progress: Progress, stop: threading.Event) -> None:
    """Write a disk to a new sparse raw file, which appears when it is whole and durable.

    Raises: Conflict when the file exists; UsageError, NoSpace, RestoreFailed; IntegrityError; Stopped. Nothing is left
    behind then.
    """
    if to.exists() or to.is_symlink():
        raise Conflict(f"{to}: exists already", hint="choose another name, or move it away: nothing is overwritten")
    if not to.parent.is_dir():
        raise UsageError(f"{to.parent}: no such directory")
    partial = to.with_name(f".{to.name}.{secrets.token_hex(4)}.partial")
    try:
        target = FileWriteAt.create(partial, source.size_bytes)
        try:
            copy_out(source, target, workers, progress=progress, stop=stop)
        finally:
            target.close()
        partial.rename(to)
        _flush_directory(to.parent)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(f"{to}: {error.strerror}", hint="free some space, or restore elsewhere") from error
        raise RestoreFailed(f"{to}: {error.strerror}") from error
    finally:
        with suppress(OSError):
            partial.unlink()


def _flush_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
