"""The threads that copy spans.

Owns: their number, a buffer of one span for each, stopping at the first error. Does not own: what is done to a span.
"""

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from offhost.chunking.spans import SPAN_BYTES, span_buffer
from offhost.errors import Stopped
from offhost.extents import ExtentMap

_LOOK_AGAIN_S = 1.0


def touched_spans(extents: ExtentMap) -> list[int]:
    """The spans that extents of a disk touch, ascending."""
    spans: dict[int, None] = {}
    for extent in extents:
        spans.update(dict.fromkeys(range(extent.start // SPAN_BYTES, -(-extent.end // SPAN_BYTES))))
    return list(spans)


class SpanWorkers:
    """The threads that copy spans, for all disks of the process, each with a buffer of one span.

    Every disk is worked on by the thread of its own that calls `each`, so that none waits for another whose source is
    slow; the shared threads help whoever has spans to give away, in the order in which they came. More threads than
    processors gain nothing: reading, hashing and compressing release the interpreter's lock, and what is left is
    bound by it.
    """

    def __init__(self, threads: int | None = None) -> None:
        """`threads`: how many work on a disk that is alone, its own among them."""
        self.threads = threads or max(os.cpu_count() or 1, 2)
        self._executor = self._threads()
        self._giving = threading.Lock()  # no span is given to threads that are just being given up
        self._local = threading.local()

    def buffer(self) -> memoryview:
        """This thread's span of memory."""
        if not hasattr(self._local, "buffer"):
            self._local.buffer = span_buffer()
        buffer: memoryview = self._local.buffer
        return buffer

    def each(self, spans: Iterable[int], work: Callable[[int], None], stop: threading.Event) -> None:
        """Do `work` for every span; the first error ends it. Returns when no thread is at it any more.

        `spans` may take its time to yield the next: only the calling thread waits for it.
        Raises: what `work` or `spans` raised; Stopped once `stop` is set.
        """
        left = iter(spans)
        given: dict[Future[None], int] = {}
        try:
            while not stop.is_set():
                span = next(left, None)
                if span is None:
                    span = _taken_back(given)
                elif len(given) < 2 * (self.threads - 1):
                    self._give(span, work, given)
                    continue
                if span is not None:
                    work(span)
                elif not given:
                    return
                _ended(given, wait_s=0 if span is not None else _LOOK_AGAIN_S)
            raise Stopped("the copy was stopped")
        finally:
            wait([future for future in given if not future.cancel()])

    def _give(self, span: int, work: Callable[[int], None], given: dict[Future[None], int]) -> None:
        with self._giving:
            given[self._executor.submit(work, span)] = span

    def give_up_hung(self) -> None:
        """Go on with new threads: those of a read that never comes back would be missed by every other disk."""
        with self._giving:
            hung, self._executor = self._executor, self._threads()
        hung.shutdown(wait=False)

    def _threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(max(self.threads - 1, 1), thread_name_prefix="span")

    def close(self) -> None:
        """End the threads."""
        self._executor.shutdown()

    def __enter__(self) -> "SpanWorkers":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _taken_back(given: dict[Future[None], int]) -> int | None:
    """A span that no helper has begun; at the end nobody waits for helpers that are busy with another disk, or hang."""
    return next((given.pop(future) for future in list(given) if future.cancel()), None)


def _ended(given: dict[Future[None], int], wait_s: float) -> None:
    """Take out what has ended, waiting for the first; raises what it raised."""
    ended, _ = wait(given, timeout=wait_s, return_when=FIRST_COMPLETED)
    for future in ended:
        del given[future]
        future.result()
