"""Cron lines as crontab(5) means them: five fields, `minute hour day-of-month month day-of-week`.

Owns: their grammar. 0 and 7 are Sunday; when both days are restricted, either one matching is enough. Schedulers
differ on both, so the line is spelled out into numbers here and nobody else reads the text.
Does not own: when the next time is (jobs.schedule), which a time zone decides as well.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class _Field:
    """One of the five fields: its name, its bounds, and the words that stand for numbers."""

    name: str
    low: int
    high: int
    words: tuple[str, ...] = ()
    """Stand for `low`, `low + 1`..."""


_MINUTE = _Field("minute", 0, 59)
_HOUR = _Field("hour", 0, 23)
_DAY = _Field("day of month", 1, 31)
_MONTH = _Field("month", 1, 12, ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"))
_WEEKDAY = _Field("day of week", 0, 7, ("sun", "mon", "tue", "wed", "thu", "fri", "sat"))

_LONGEST = {2: 29} | dict.fromkeys((4, 6, 9, 11), 30)
"""Days in the months that have fewer than 31, at most."""


class BadCronLine(ValueError):
    """The text is no cron line; the message says which part."""


@dataclass(frozen=True, slots=True)
class CronLine:
    """The minutes, hours and days on which something is due, each in ascending order. Weekday 0 is Sunday."""

    text: str
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: tuple[int, ...] | None
    """Days of the month; None when the field is `*`."""
    months: tuple[int, ...]
    weekdays: tuple[int, ...] | None
    """Days of the week; None when the field is `*`."""

    @classmethod
    def parse(cls, text: str) -> "CronLine":
        """Read a line such as `0 22 * * mon-fri`.

        Raises: BadCronLine, also for a day that never comes, such as 31 February.
        """
        fields = text.split()
        if len(fields) != 5:
            raise BadCronLine(f"five fields are needed, here are {len(fields)}")
        minute, hour, day, month, weekday = fields
        line = cls(
            text=text,
            minutes=_numbers(minute, _MINUTE),
            hours=_numbers(hour, _HOUR),
            days=None if day == "*" else _numbers(day, _DAY),
            months=_numbers(month, _MONTH),
            weekdays=None if weekday == "*" else _weekdays(weekday),
        )
        if line.days and line.weekdays is None and min(line.days) > max(_LONGEST.get(one, 31) for one in line.months):
            raise BadCronLine(f"day {min(line.days)} never comes in the months given")
        return line


def _weekdays(text: str) -> tuple[int, ...]:
    """Sunday is 0, whichever of its two numbers was written."""
    return tuple(sorted({number % 7 for number in _numbers(text, _WEEKDAY)}))


def _numbers(text: str, field: _Field) -> tuple[int, ...]:
    """A field: a list of `*`, numbers, names and ranges, each with an optional `/step`."""
    numbers: set[int] = set()
    for part in text.split(","):
        span, slash, step_text = part.partition("/")
        step = _number(step_text, field) if slash else 1
        if step < 1:
            raise BadCronLine(f"{field.name}: the step in `{part}` must be at least 1")
        first, last = _span(span, field, stepped=bool(slash))
        numbers.update(range(first, last + 1, step))
    return tuple(sorted(numbers))


def _span(text: str, field: _Field, *, stepped: bool) -> tuple[int, int]:
    if text == "*":
        return field.low, field.high
    first_text, dash, last_text = text.partition("-")
    first = _number(first_text, field)
    last = _number(last_text, field) if dash else (field.high if stepped else first)
    if dash and last == 0 and field is _WEEKDAY:
        last = 7  # `sat-sun`: Sunday ends the week as well as it begins it
    if not field.low <= first <= last <= field.high:
        raise BadCronLine(f"{field.name}: `{text}` does not lie within {field.low}-{field.high}")
    return first, last


def _number(text: str, field: _Field) -> int:
    if text.lower() in field.words:
        return field.low + field.words.index(text.lower())
    if not (text.isascii() and text.isdigit() and len(text) <= 4):
        raise BadCronLine(f"{field.name}: `{text}` is neither a number nor a name")
    return int(text)
