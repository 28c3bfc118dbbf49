import asyncio
import threading
import time

import pytest

from offhost.aio import Abandon, guarded, in_own_thread, in_thread, retrying, shielded
from offhost.errors import NoSpace, ReadFailed, Unavailable


async def test_a_cancelled_caller_waits_until_its_thread_has_ended() -> None:
    ended, stop = threading.Event(), threading.Event()

    def work() -> None:
        stop.wait(5)
        time.sleep(0.05)
        ended.set()

    task = asyncio.create_task(in_thread(work, interrupt=stop.set))
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


async def test_long_work_however_much_of_it_keeps_no_short_work_waiting() -> None:
    stop = threading.Event()
    async with asyncio.TaskGroup() as group:
        copies = [group.create_task(in_own_thread(stop.wait, 30)) for _ in range(100)]
        await asyncio.sleep(0)
        try:
            assert await asyncio.wait_for(in_thread(lambda: "removed"), 5) == "removed"
            assert not any(copy.done() for copy in copies)
        finally:
            stop.set()


async def test_cancelled_long_work_is_interrupted_waited_for_and_leaves_no_thread() -> None:
    stop = threading.Event()
    threads: list[threading.Thread] = []

    def work() -> None:
        threads.append(threading.current_thread())
        stop.wait(30)

    task = asyncio.create_task(in_own_thread(work, interrupt=stop.set))
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert stop.is_set()
    threads[0].join(5)
    assert not threads[0].is_alive()


async def test_a_thread_that_hangs_is_left_to_itself_when_that_was_allowed() -> None:
    comes_back, told = threading.Event(), threading.Event()
    task = asyncio.create_task(in_own_thread(comes_back.wait, 30, abandon=Abandon(0.05, told.set)))
    await asyncio.sleep(0.02)
    task.cancel()
    try:
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 5)
        assert told.is_set()
    finally:
        comes_back.set()


async def test_a_thread_that_ends_in_time_is_not_abandoned() -> None:
    stop, told = threading.Event(), threading.Event()
    task = asyncio.create_task(in_thread(stop.wait, 30, interrupt=stop.set, abandon=Abandon(5, told.set)))
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not told.is_set()


async def test_clean_up_runs_to_its_end_however_often_it_is_cancelled() -> None:
    done = False

    async def clean_up() -> None:
        nonlocal done
        await asyncio.sleep(0.05)
        done = True

    task = asyncio.create_task(shielded(clean_up()))
    for _ in range(3):
        await asyncio.sleep(0.01)
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done


async def test_only_errors_that_say_so_are_tried_again() -> None:
    calls: list[int] = []

    async def failing() -> int:
        calls.append(1)
        if len(calls) < 3:
            raise Unavailable("busy")
        return len(calls)

    async def full() -> None:
        calls.append(1)
        raise NoSpace("full")

    assert await retrying(failing, times=3, wait_s=0) == 3
    calls.clear()
    with pytest.raises(NoSpace):
        await retrying(full, times=3, wait_s=0)
    assert len(calls) == 1


async def test_a_watch_that_fails_ends_the_work_and_is_what_is_raised() -> None:
    cancelled = False

    async def work() -> None:
        nonlocal cancelled
        try:
            await asyncio.sleep(5)
        except asyncio.CancelledError:
            await asyncio.sleep(0.01)
            cancelled = True
            raise

    async def watch() -> None:
        await asyncio.sleep(0.01)
        raise NoSpace("full")

    with pytest.raises(NoSpace):
        await guarded(work(), watch())
    assert cancelled


async def test_work_that_ends_ends_its_watch() -> None:
    async def work() -> int:
        return 7

    async def fails() -> None:
        raise ReadFailed("gone")

    async def watch() -> None:
        await asyncio.sleep(5)

    assert await guarded(work(), watch()) == 7
    with pytest.raises(ReadFailed):
        await guarded(fails(), watch())
