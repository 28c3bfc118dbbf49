"""The threads that copy spans.

Owns: their number, a buffer of one span for each, stopping at the first error. Does not own: what is done to a span.
"""

import itertools
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from offhost.chunking.spans import SPAN_BYTES, span_buffer
from offhost.errors import Stopped
from offhost.extents import ExtentMap


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
        self._executor = ThreadPoolExecutor(self.threads, thread_name_prefix="span")
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
        left = iter(spans)
        running: set[Future[None]] = set()
        try:
            while not stop.is_set():
                more = itertools.islice(left, 2 * self.threads - len(running))
                running |= {self._executor.submit(work, span) for span in more}
                if not running:
                    return
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
            raise Stopped("the copy was stopped")
        finally:
            for future in running:
                future.cancel()
            wait(running)

    def close(self) -> None:
        """End the threads."""
        self._executor.shutdown()

    def __enter__(self) -> "SpanWorkers":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
