"""Coroutines over blocking work: the hop to a thread, clean-up that cancellation cannot tear, retries.

Owns: the three patterns. Does not own: what is retried (`error.retry` says) or how long a job may take.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, asynccontextmanager
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any, TypeVar

from offhost.errors import OffhostError

T = TypeVar("T")

_THREADS = ThreadPoolExecutor(64, thread_name_prefix="blocking")
"""The loop's own pool has a few threads for each processor, and what blocks here waits for disks and networks."""


@dataclass(frozen=True, slots=True)
class Abandon:
    """After a cancellation, leave a thread that does not end to itself: one that hangs in the kernel never will.

    `told` is called before the cancellation goes on: from then on the thread's disks and sessions are its own.
    """

    after_s: float
    told: Callable[[], None]


async def in_thread(
    function: Callable[..., T],
    *args: object,
    interrupt: Callable[[], None] | None = None,
    abandon: Abandon | None = None,
) -> T:
    """Run blocking work in a thread; on cancellation, wait until it has ended before the cancellation goes on.

    A thread cannot be interrupted: were it left running, it would use disks and sessions that its caller has
    already given back. Long work is handed something to look at now and then, which `interrupt` sets.
    The threads are shared: what may last longer than a clean-up should wait belongs `in_own_thread`.
    """
    here = copy_context()
    work = asyncio.get_running_loop().run_in_executor(_THREADS, here.run, function, *args)
    return await _ended(work, interrupt, abandon)


async def in_own_thread(
    function: Callable[..., T],
    *args: object,
    interrupt: Callable[[], None] | None = None,
    abandon: Abandon | None = None,
) -> T:
    """As `in_thread`, in a thread of its own: for work that lasts as long as a disk is large.

    However much of it is under way, the threads of `in_thread` stay free for the short work of everyone else, the
    removal of snapshots above all.
    """
    own = ThreadPoolExecutor(1, thread_name_prefix="long")
    try:
        here = copy_context()
        work = asyncio.get_running_loop().run_in_executor(own, here.run, function, *args)
        return await _ended(work, interrupt, abandon)
    finally:
        own.shutdown(wait=False)


async def _ended(work: "asyncio.Future[T]", interrupt: Callable[[], None] | None, abandon: Abandon | None = None) -> T:
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        if interrupt:
            interrupt()
        await _settled(work, within_s=abandon.after_s if abandon else None)
        if abandon and not work.done():
            abandon.told()
        raise


@asynccontextmanager
async def threaded(scope: AbstractContextManager[T]) -> AsyncIterator[T]:
    """A scope whose entry and exit block, in threads; it is left also when a cancellation meets its entry."""
    entering = asyncio.ensure_future(in_thread(scope.__enter__))
    try:
        yield await asyncio.shield(entering)
    except BaseException as error:
        await _settled(entering)
        if not entering.cancelled() and entering.exception() is None:
            await shielded(in_thread(scope.__exit__, type(error), error, error.__traceback__))
        raise
    await shielded(in_thread(scope.__exit__, None, None, None))


async def shielded(clean_up: Coroutine[Any, Any, T]) -> T:
    """Run clean-up to its end even when the caller is cancelled meanwhile; the cancellation follows after it."""
    work = asyncio.ensure_future(clean_up)
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await _settled(work)
        raise


async def guarded(work: Coroutine[Any, Any, T], watch: Coroutine[Any, Any, None]) -> T:
    """Run `work` beside `watch`: when that fails first, the work is cancelled, waited for, and the failure raised."""
    working, watching = asyncio.ensure_future(work), asyncio.ensure_future(watch)
    try:
        await asyncio.wait([working, watching], return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            watching.result()
        return await working
    finally:
        working.cancel()
        watching.cancel()
        await _settled(working)
        await _settled(watching)


async def _settled(work: "asyncio.Future[T]", within_s: float | None = None) -> None:
    """Wait until `work` is done, whatever it ends in and however often we are cancelled meanwhile."""
    loop = asyncio.get_running_loop()
    until = None if within_s is None else loop.time() + within_s
    work.add_done_callback(_retrieve)
    while not work.done() and (until is None or loop.time() < until):
        try:
            await asyncio.wait([work], timeout=None if until is None else until - loop.time())
        except asyncio.CancelledError:
            continue


def _retrieve(work: "asyncio.Future[T]") -> None:
    """What it ended in is nobody's concern any more: the cancellation is what the caller sees."""
    if not work.cancelled():
        work.exception()


async def retrying(call: Callable[[], Awaitable[T]], *, times: int, wait_s: float) -> T:
    """Call again after errors that say `retry`, up to `times` more, waiting twice as long each time."""
    for attempt in range(times):
        try:
            return await call()
        except OffhostError as error:
            if not error.retry:
                raise
            await asyncio.sleep(wait_s * 2**attempt)
    return await call()
