"""When jobs are due, as their cron lines mean it, and what happens then."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offhost.config.cron import CronLine
from offhost.errors import Conflict
from offhost.jobs.schedule import GRACE_S, Schedule, next_time
from offhost.jobs.spec import Timing
from support.small_engine import job
from support.waiting import until


def due(line: str, after: str, timezone: str = "UTC") -> str:
    found = next_time(Timing(CronLine.parse(line), timezone), datetime.fromisoformat(after))
    assert found is not None
    return found.astimezone(UTC).strftime("%Y-%m-%d %H:%M")


def test_weekdays_are_those_of_crontab() -> None:
    # 2 January 2026 is a Friday.
    assert due("0 22 * * 5", "2026-01-01T00:00Z") == "2026-01-02 22:00"
    assert due("0 22 * * 0", "2026-01-01T00:00Z") == "2026-01-04 22:00"
    assert due("0 22 * * mon-fri", "2026-01-02T22:30Z") == "2026-01-05 22:00"


def test_a_day_of_the_month_or_of_the_week_is_enough_when_both_are_given() -> None:
    assert due("0 0 13 * 5", "2026-01-01T00:00Z") == "2026-01-02 00:00"
    assert due("0 0 13 * 5", "2026-01-09T12:00Z") == "2026-01-13 00:00"


def test_times_are_those_of_the_job_s_own_zone() -> None:
    assert due("0 22 * * *", "2026-01-01T00:00Z", "Europe/Zurich") == "2026-01-01 21:00"
    assert due("0 22 * * *", "2026-07-01T00:00Z", "Europe/Zurich") == "2026-07-01 20:00"


def test_an_hour_that_daylight_saving_leaves_out_loses_no_day() -> None:
    # On 29 March 2026 Zurich goes from 02:00 to 03:00.
    assert due("30 2 * * *", "2026-03-28T12:00Z", "Europe/Zurich").startswith("2026-03-29")


BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


@given(
    st.integers(0, 4 * 365 * 24 * 3600).map(
        lambda seconds: datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    ),
    st.sampled_from(["*/7 * * * *", "5 4 * * sun", "0 0 29 2 *", "30 6 1,15 * mon", "0 8-18/2 * jan-jun 1-5"]),
)
def test_the_next_time_is_the_first_minute_that_the_line_names(after: datetime, text: str) -> None:
    line = CronLine.parse(text)
    found = next_time(Timing(line, "UTC"), after)
    assert found is not None
    assert found >= after
    assert named(line, found)
    minute = after.replace(second=0, microsecond=0) + timedelta(minutes=bool(after.second or after.microsecond))
    while minute < min(found, after + timedelta(days=1)):
        assert not named(line, minute)
        minute += timedelta(minutes=1)


def named(line: CronLine, at: datetime) -> bool:
    """crontab(5), word for word."""
    by_month = None if line.days is None else at.day in line.days
    by_week = None if line.weekdays is None else at.isoweekday() % 7 in line.weekdays
    day = True if by_month is None and by_week is None else bool(by_month) or bool(by_week)
    return at.minute in line.minutes and at.hour in line.hours and at.month in line.months and day


NIGHTLY = Timing(CronLine.parse("0 22 * * *"), "UTC")


async def test_a_due_job_is_started_once_and_a_job_without_times_never() -> None:
    started: list[str] = []

    async def start(name: str) -> None:
        started.append(name)

    schedule = Schedule(start)
    schedule.add(job("nightly", timing=NIGHTLY))
    schedule.add(job("by-hand"))
    schedule.begin()
    try:
        (entry,) = schedule._scheduler.get_jobs()
        entry.modify(next_run_time=datetime.now(UTC))
        await until(lambda: started)
        await asyncio.sleep(0.05)
        assert started == ["nightly"]
    finally:
        schedule.end()


async def test_a_time_missed_by_more_than_the_grace_is_left_out() -> None:
    started: list[str] = []

    async def start(name: str) -> None:
        started.append(name)

    schedule = Schedule(start)
    schedule.add(job("slept", timing=NIGHTLY))
    schedule.add(job("late", timing=NIGHTLY))
    schedule.begin()
    try:
        now = datetime.now(UTC)
        schedule._scheduler.modify_job("slept", next_run_time=now - timedelta(seconds=GRACE_S + 5))
        schedule._scheduler.modify_job("late", next_run_time=now - timedelta(seconds=GRACE_S - 5))
        await until(lambda: started)
        await asyncio.sleep(0.05)
        assert started == ["late"]
    finally:
        schedule.end()


async def test_a_start_that_is_refused_is_logged_and_disturbs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def start(name: str) -> None:
        raise Conflict(f"job {name} is being executed")

    schedule = Schedule(start)
    schedule.add(job("nightly", timing=NIGHTLY))
    schedule.begin()
    try:
        schedule._scheduler.modify_job("nightly", next_run_time=datetime.now(UTC))
        await until(lambda: "was due and was not started" in caplog.text)
        assert schedule._scheduler.get_job("nightly") is not None
    finally:
        schedule.end()
