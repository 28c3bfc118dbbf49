"""Bounds on reading: kept on the average, shared fairly, and in nobody's way once work stops."""

import threading
from collections import Counter

import pytest

from offhost.clock import SystemClock
from offhost.pacing import Pace, Paces


class Ticking(SystemClock):
    """Time that passes only while somebody waits for it."""

    def __init__(self) -> None:
        self.time = 0.0

    def monotonic(self) -> float:
        return self.time


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Ticking:
    """A clock that goes on at once when a turn is waited for."""
    ticking = Ticking()

    def waited(_: threading.Condition, timeout: float | None = None) -> bool:
        ticking.time += timeout or 0.0
        return False

    monkeypatch.setattr(threading.Condition, "wait", waited)
    return ticking


def test_no_more_is_read_than_the_rate_allows(clock: Ticking) -> None:
    pace = Pace(1000.0, clock)
    for _ in range(11):
        pace.take(500, threading.Event())
    assert clock.time == pytest.approx(5.0)


def test_time_that_nobody_used_is_not_saved_up(clock: Ticking) -> None:
    pace = Pace(1000.0, clock)
    clock.time = 3600.0
    for _ in range(3):
        pace.take(1000, threading.Event())
    assert clock.time == pytest.approx(3602.0)


def test_nothing_is_waited_for_without_a_rate_or_once_stopped(clock: Ticking) -> None:
    stop = threading.Event()
    Pace(None, clock).take(1 << 60, stop)
    stop.set()
    pace = Pace(1.0, clock)
    pace.take(100, stop)
    pace.take(100, stop)
    assert clock.time == 0.0


def test_another_rate_counts_at_once(clock: Ticking) -> None:
    pace = Pace(1.0, clock)
    pace.take(1000, threading.Event())
    pace.limit(100.0)
    pace.take(1000, threading.Event())
    pace.take(1000, threading.Event())
    assert clock.time == pytest.approx(10.0)


def test_the_slowest_of_several_bounds_counts(clock: Ticking) -> None:
    paces = Paces((Pace(1000.0, clock), Pace(10.0, clock), Pace(None, clock)))
    for _ in range(11):
        paces.take(100, threading.Event())
    assert clock.time == pytest.approx(100.0)


@pytest.mark.slow
def test_flows_get_equal_shares_whatever_their_threads_and_requests() -> None:
    stop = threading.Event()
    pace = Pace(20e6, SystemClock())
    shares: Counter[str] = Counter()
    counting = threading.Lock()

    def read(flow: str, size: int) -> None:
        while not stop.is_set():
            pace.take(size, stop, flow)
            with counting:
                shares[flow] += size

    readers = [("one", 100_000), *[("many", 100_000)] * 6, ("large", 400_000)]
    threads = [threading.Thread(target=read, args=reader) for reader in readers]
    for thread in threads:
        thread.start()
    threads[0].join(1.0)
    stop.set()
    for thread in threads:
        thread.join(10)
    assert max(shares.values()) < 1.5 * min(shares.values()), shares
