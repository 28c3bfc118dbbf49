import threading
import time

import pytest

from offhost.chunking.workers import SpanWorkers, touched_spans
from offhost.errors import Stopped
from offhost.extents import Extent, ExtentMap

SPAN = 32 << 20


def test_every_span_is_worked_on_once() -> None:
    seen: list[int] = []
    with SpanWorkers(2) as workers:
        workers.each(range(50), seen.append, threading.Event())
    assert sorted(seen) == list(range(50))


def test_the_first_error_ends_the_work() -> None:
    seen: list[int] = []

    def work(span: int) -> None:
        seen.append(span)
        if span == 3:
            raise ValueError("broken")
        time.sleep(0.01)

    with SpanWorkers(2) as workers, pytest.raises(ValueError, match="broken"):
        workers.each(range(1000), work, threading.Event())
    assert len(seen) < 20


def test_an_error_is_told_only_when_no_thread_is_at_it_any_more() -> None:
    """Whoever is told closes the disk that the others would still be reading."""
    helps, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    def work(_: int) -> None:
        if threading.current_thread() is own:
            helps.wait(10)
            raise ValueError("broken")
        helps.set()
        may_end.wait(10)
        ended.set()

    def copy() -> None:
        with pytest.raises(ValueError, match="broken"):
            workers.each(range(10), work, threading.Event())
        assert ended.is_set()

    with SpanWorkers(2) as workers:
        own = threading.Thread(target=copy)
        own.start()
        assert helps.wait(10)
        own.join(0.05)
        assert own.is_alive()
        may_end.set()
        own.join(10)
        assert ended.is_set()


def test_work_that_is_told_to_stop_stops_between_two_spans() -> None:
    stop = threading.Event()
    with SpanWorkers(2) as workers, pytest.raises(Stopped):
        workers.each(range(1000), lambda _: stop.set(), stop)


@pytest.mark.slow
def test_a_small_disk_is_not_kept_waiting_by_a_large_one() -> None:
    ended: dict[str, float] = {}
    with SpanWorkers(2) as workers:

        def copy(name: str, spans: int) -> None:
            workers.each(range(spans), lambda _: time.sleep(0.005), threading.Event())
            ended[name] = time.monotonic()

        large = threading.Thread(target=copy, args=("large", 200))
        large.start()
        time.sleep(0.02)
        begun = time.monotonic()
        copy("small", 2)
        large.join()
    assert ended["small"] - begun < (ended["large"] - begun) / 4


def test_a_read_that_hangs_takes_no_other_disk_with_it() -> None:
    comes_back, hangs = threading.Event(), threading.Semaphore(0)
    seen: list[int] = []

    def hang(_: int) -> None:
        hangs.release()
        comes_back.wait(30)

    with SpanWorkers(2) as workers:
        hung = threading.Thread(target=workers.each, args=(range(3), hang, threading.Event()))
        hung.start()
        for _ in range(2):
            assert hangs.acquire(timeout=10)
        other = threading.Thread(target=workers.each, args=(range(20), seen.append, threading.Event()))
        other.start()
        workers.give_up_hung()
        other.join(10)
        assert sorted(seen) == list(range(20))
        comes_back.set()
        hung.join(10)
        assert not hung.is_alive()


@pytest.mark.slow
def test_threads_given_up_again_and_again_leave_no_span_out() -> None:
    seen: list[int] = []
    with SpanWorkers(2) as workers:
        copying = threading.Thread(target=workers.each, args=(range(3000), seen.append, threading.Event()))
        copying.start()
        while copying.is_alive():
            workers.give_up_hung()
    assert sorted(seen) == list(range(3000))


def test_a_disk_with_a_slow_source_keeps_no_other_waiting() -> None:
    slow_ended = threading.Event()
    slow_begun = threading.Semaphore(0)

    def slowly(_: int) -> None:
        slow_begun.release()
        slow_ended.wait(30)

    with SpanWorkers(2) as workers:
        disks = [threading.Thread(target=workers.each, args=(range(5), slowly, threading.Event())) for _ in range(3)]
        for disk in disks:
            disk.start()
        for _ in range(4):  # the three disks' own threads, and the one that helps
            assert slow_begun.acquire(timeout=10)
        seen: list[int] = []
        workers.each(range(20), seen.append, threading.Event())
        assert sorted(seen) == list(range(20))
        slow_ended.set()
        for disk in disks:
            disk.join(10)


def test_the_spans_of_extents_are_those_they_touch() -> None:
    assert touched_spans(ExtentMap([Extent(SPAN - 1, SPAN + 1), Extent(3 * SPAN, 3 * SPAN + 1)])) == [0, 1, 3]
    assert touched_spans(ExtentMap()) == []
