"""Progress: bars on a terminal, now and then a plain line in a pipe. On standard error, beside the result."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from offhost.cli.output import note
from offhost.errors import Stopped
from offhost.printable import printable, size

_LINE_EVERY = 0.25


class Progress(Protocol):
    """Told what is worked on, bytes done and bytes in all. Safe to call from any thread."""

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show it."""
        ...


def counted(progress: Progress, what: str, total: int, stop: threading.Event) -> Callable[[int], None]:
    """Progress told by increments, one at a time; it raises Stopped once `stop` is set."""
    done = 0

    def more(count: int) -> None:
        nonlocal done
        if stop.is_set():
            raise Stopped("stopped before its end: nothing is left behind")
        done += count
        progress(what, done, total)

    return more


@contextmanager
def shown(*, quiet: bool = False) -> Iterator[Progress]:
    """A way to show progress, for as long as the scope lasts."""
    if quiet:
        yield lambda *_: None
    elif sys.stderr.isatty():
        yield from _bars()
    else:
        yield _lines()


def _bars() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(binary_units=True))
    speed = (TransferSpeedColumn(), TimeRemainingColumn())
    # results are shown above the bars, unless they go to a file
    with Bars(*columns, *speed, console=Console(stderr=True), redirect_stdout=sys.stdout.isatty()) as bars:
        lock = threading.Lock()
        tasks = {}

        def show(what: str, done: int, total: int) -> None:
            with lock:
                if what not in tasks:
                    tasks[what] = bars.add_task(printable(what))
                bars.update(tasks[what], completed=done, total=total)

        yield show


def _lines() -> Progress:
    lock = threading.Lock()
    said: dict[str, float] = {}

    def show(what: str, done: int, total: int) -> None:
        share = done / total if total else 1.0
        with lock:
            if share < said.get(what, 0.0):  # the same anew: of the next restore point
                del said[what]
            if share - said.get(what, 0.0) >= _LINE_EVERY or (done == total and said.get(what) != share):
                said[what] = share
                note(f"{what}: {size(done)} of {size(total)}")

    return show
