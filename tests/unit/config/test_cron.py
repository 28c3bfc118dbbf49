"""Cron lines mean what crontab(5) says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offhost.config.cron import BadCronLine, CronLine


def test_names_ranges_lists_and_steps_are_spelled_out() -> None:
    line = CronLine.parse("*/20 8-18/5,23 1,15 jan-mar mon-fri")
    assert line.minutes == (0, 20, 40)
    assert line.hours == (8, 13, 18, 23)
    assert line.days == (1, 15)
    assert line.months == (1, 2, 3)
    assert line.weekdays == (1, 2, 3, 4, 5)


@pytest.mark.parametrize("sunday", ["0", "7", "sun", "SUN"])
def test_sunday_is_zero_and_seven(sunday: str) -> None:
    assert CronLine.parse(f"0 0 * * {sunday}").weekdays == (0,)


def test_a_weekend_runs_from_saturday_to_sunday() -> None:
    assert CronLine.parse("0 0 * * sat-sun").weekdays == (0, 6)


def test_unrestricted_days_are_told_from_all_days() -> None:
    line = CronLine.parse("0 0 * * *")
    assert line.days is None
    assert line.weekdays is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "five fields"),
        ("0 22 * *", "five fields"),
        ("60 0 * * *", "minute"),
        ("0 0 0 * *", "day of month"),
        ("0 0 * 13 *", "month"),
        ("0 0 * * 8", "day of week"),
        ("0 5-3 * * *", "hour"),
        ("*/0 * * * *", "step"),
        ("0 0 * * mo", "neither a number nor a name"),
        ("0 0 31 feb,apr *", "never comes"),
        ("0 , * * *", "neither a number nor a name"),
        ("0 ² * * *", "neither a number nor a name"),
        ("@daily", "five fields"),
    ],
)
def test_a_bad_line_is_refused_with_the_part_that_is_wrong(text: str, said: str) -> None:
    with pytest.raises(BadCronLine, match=said):
        CronLine.parse(text)


def test_the_29th_of_february_comes() -> None:
    assert CronLine.parse("0 0 29 2 *").days == (29,)


@given(st.text(alphabet="0123456789*/,- monsunja", max_size=30))
def test_any_text_is_read_within_bounds_or_refused(text: str) -> None:
    try:
        line = CronLine.parse(text)
    except BadCronLine:
        return
    assert set(line.minutes) <= set(range(60))
    assert set(line.hours) <= set(range(24))
    assert line.days is None or set(line.days) <= set(range(1, 32))
    assert set(line.months) <= set(range(1, 13))
    assert line.weekdays is None or set(line.weekdays) <= set(range(7))
