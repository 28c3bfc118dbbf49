"""How a repository grew: what the runs stored whose restore points are still there, by day, week or month. Pure.

Does not own: what is stored now (stats): a run's bytes may have been freed since, or be shared with later points.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from typing import Literal

Period = Literal["day", "week", "month"]


@dataclass(frozen=True, slots=True)
class Growth:
    """One period, in UTC: `2026-03-28`, `2026-W13` (ISO 8601) or `2026-03`.

    `stored_bytes` is what the runs that made its points stored, chunks and maps, as they recorded it; points of runs
    that recorded nothing add nothing.
    """

    period: str
    points: int
    stored_bytes: int


def growth(points: Iterable[tuple[datetime, int | None]], period: Period) -> list[Growth]:
    """Of points' times and recorded bytes, by period, the oldest first; periods without a point are left out."""
    dated = sorted((_named(at.astimezone(UTC), period), stored or 0) for at, stored in points)
    grouped = ((name, [stored for _, stored in group]) for name, group in groupby(dated, key=lambda pair: pair[0]))
    return [Growth(name, len(stored), sum(stored)) for name, stored in grouped]


def _named(at: datetime, period: Period) -> str:
    if period == "week":
        year, week, _ = at.isocalendar()
        return f"{year}-W{week:02}"
    return f"{at:%Y-%m-%d}" if period == "day" else f"{at:%Y-%m}"
