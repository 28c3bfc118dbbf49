"""The threads that copy spans.

Owns: their number, a buffer of one span for each, stopping at the first error. Does not own: what is done to a span.
"""

import itertools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
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

    More threads than processors gain nothing: reading, hashing and compressing release the interpreter's lock, and
    what is left is bound by it.
    """

    def __init__(self, threads: int | None = None) -> None:
        self.threads = threads or max(os.cpu_count() or 1, 2)
        self._executor = self._threads()
        self._taking_on = threading.Lock()  # no span is handed to threads that are just being given up
        self._local = threading.local()

    def buffer(self) -> memoryview:
        """This thread's span of memory."""
        if not hasattr(self._local, "buffer"):
            self._local.buffer = span_buffer()
        buffer: memoryview = self._local.buffer
        return buffer

    def each(self, spans: Sequence[int], work: Callable[[int], None], stop: threading.Event) -> None:
        """Do `work` for every span; the first error ends it. Returns when no thread is at it any more.

        Few spans are queued at a time, so that disks copied at once share the threads whatever their sizes.
        Raises: what `work` raised; Stopped once `stop` is set.
        """
        left: Iterator[int] = iter(spans)
        pool = self._executor
        running: dict[Future[None], int] = {}
        try:
            while not stop.is_set():
                with self._taking_on:
                    if pool is not self._executor:  # given up: what has not begun there never will
                        pool = self._executor
                        stranded = [running.pop(future) for future in list(running) if future.cancel()]
                        left = itertools.chain(stranded, left)
                    more = itertools.islice(left, max(2 * self.threads - len(running), 0))
                    running |= {pool.submit(work, span): span for span in more}
                if not running:
                    return
                done, _ = wait(running, timeout=_LOOK_AGAIN_S, return_when=FIRST_COMPLETED)
                for future in done:
                    del running[future]
                    future.result()
            raise Stopped("the copy was stopped")
        finally:
            wait([future for future in running if not future.cancel()])

    def give_up_hung(self) -> None:
        """Go on with new threads: those of a read that never comes back would be missed by every other disk."""
        with self._taking_on:
            hung, self._executor = self._executor, self._threads()
        hung.shutdown(wait=False)

    def _threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self.threads, thread_name_prefix="span")

    def close(self) -> None:
        """End the threads."""
        self._executor.shutdown()

    def __enter__(self) -> "SpanWorkers":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
