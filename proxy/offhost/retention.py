"""Which restore points are kept, and why: pure, without a repository or a clock.

Owns: the rules below, and the words that explain each decision. Does not own: which policy a point falls under, and
the forgetting (repository.expiry); how a policy is written in a job (config) or on the command line (cli).

The rules, as deploy/retention.md tells them to operators:

1.  A point is kept when at least one rule keeps it. A policy without rules keeps everything.
2.  `keep_last` keeps the n latest points. Later is what has the higher sequence: a clock may jump, a sequence does not.
3.  `hourly`, `daily`, `weekly`, `monthly` and `yearly` keep the latest point of each of the n latest periods that have
    one. Periods without points do not count, so that a gap costs nothing. They are those of the policy's time zone: a
    day has 23, 24 or 25 hours, an hour that the end of summer time repeats is two hours, weeks are those of ISO 8601.
    The latest periods are the latest by time: a point of a clock that had jumped back takes no place of a real one.
4.  While such a rule has found fewer than n periods it keeps the oldest point as well: a history is not cut before it
    is as long as was asked for (restic and borg do the same).
5.  `within` keeps what is at most that much older than the latest point, not than now: when backups stop, nothing
    expires by the mere passing of time.
6.  `tags` keeps every point that has one of them. A pin keeps its point whatever the rules say.
7.  The latest point is always kept, so that no policy empties a VM.
8.  A point that is more than `CLOCK_TOLERANCE` in the future is kept and counted nowhere: a clock that jumped ahead
    takes no place of a real point. It is judged like any other when its time has come.
9.  Points that are known to be damaged do not stand in for whole ones: the rules keep what they would keep with them
    and what they would keep without them.
10. `after_vm_deleted`: of a VM that is known to be deleted every point that is not pinned goes, the last one too, when
    that much time has passed since its latest point. Until then the rules go on.
"""

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta, tzinfo

CLOCK_TOLERANCE = timedelta(hours=1)
"""How far clocks may disagree before a point counts as one from the future."""

AGE_LIMIT = timedelta(days=36525)
COUNT_LIMIT = 100_000

_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionPolicy:
    """What is to be kept. A count of 0, None and the empty set say nothing."""

    keep_last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0
    within: timedelta | None = None
    tags: frozenset[str] = frozenset()
    after_vm_deleted: timedelta | None = None

    @property
    def keeps_everything(self) -> bool:
        """Whether no rule says what to keep, so that all of it is; a deleted VM's points may go nevertheless."""
        return not any(getattr(self, rule.name) for rule in fields(self) if rule.name != "after_vm_deleted")

    def __str__(self) -> str:
        """As a job has it: `keep_last: 3, daily: 14`."""
        rules = ((rule.name, getattr(self, rule.name)) for rule in fields(self))
        return ", ".join(f"{name}: {_written(value)}" for name, value in rules if value) or "everything is kept"


@dataclass(frozen=True, slots=True)
class Point:
    """A restore point, as far as retention looks at it. `time` is aware."""

    id: str
    sequence: int
    time: datetime
    tags: frozenset[str] = frozenset()
    pins: tuple[str, ...] = ()
    """The notes of the pins that hold it."""
    damaged: bool = False
    """Whether something in it is known to be unreadable."""

    @property
    def order(self) -> tuple[int, datetime, str]:
        """Later points are greater."""
        return self.sequence, self.time, self.id

    @property
    def pinned(self) -> tuple[str, ...]:
        """Its pins, as reasons."""
        return tuple(f"pinned: {note}" if note else "pinned" for note in self.pins)


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of a point: every rule that keeps it, or for each rule why it does not."""

    point: Point
    keep: bool
    reasons: tuple[str, ...]


@dataclass(slots=True)
class _Verdict:
    """What rules say of points, by id: why they keep it, why they do not."""

    kept: dict[str, list[str]] = field(default_factory=dict)
    passed_over: dict[str, list[str]] = field(default_factory=dict)

    def keep(self, point: Point, reason: str) -> None:
        self.kept.setdefault(point.id, []).append(reason)

    def pass_over(self, point: Point, reason: str) -> None:
        self.passed_over.setdefault(point.id, []).append(reason)


def apply(
    policy: RetentionPolicy, points: Collection[Point], *, now: datetime, timezone: tzinfo, deleted: bool = False
) -> list[Decision]:
    """Decide on the points of one VM (or of one job's backups of it), the oldest first.

    `deleted`: the VM is known not to exist any more. What is decided does not depend on the order of `points`, and
    deciding again on what was kept keeps all of it.
    """
    ordered = sorted(points, key=lambda point: point.order)
    if deleted and (reason := _outlived(policy, ordered, now)):
        return [_decided(point, [], [reason]) for point in ordered]
    if policy.keeps_everything:
        return [_decided(point, ["no rule: everything is kept"], []) for point in ordered]
    future = {point.id for point in ordered if point.time > now + CLOCK_TOLERANCE}
    present = [point for point in ordered if point.id not in future]
    verdict = _judged(policy, present, timezone)
    if any(point.damaged for point in present):
        whole = _judged(policy, [point for point in present if not point.damaged], timezone)
        for name in whole.kept.keys() - verdict.kept.keys():
            verdict.kept[name] = [f"{reason}, among the undamaged" for reason in whole.kept[name]]
    kept = verdict.kept | {name: ["its time is in the future: kept, and counted nowhere"] for name in future}
    return [_decided(point, kept.get(point.id, []), verdict.passed_over.get(point.id, [])) for point in ordered]


def _decided(point: Point, kept: Sequence[str], passed_over: Sequence[str]) -> Decision:
    reasons = (*point.pinned, *kept)
    return Decision(point, True, reasons) if reasons else Decision(point, False, tuple(passed_over))


def _outlived(policy: RetentionPolicy, ordered: Sequence[Point], now: datetime) -> str | None:
    """Why all points of a deleted VM go now; None while they stay."""
    after = policy.after_vm_deleted
    if after is None or not ordered or now - max(point.time for point in ordered) < after:
        return None
    return f"its VM is deleted, and has no point of the last {written_age(after)}"


def _judged(policy: RetentionPolicy, points: Sequence[Point], timezone: tzinfo) -> _Verdict:
    """What the rules say of points, the oldest first."""
    verdict = _Verdict()
    if not points:
        return verdict
    _judge_last(policy.keep_last, points, verdict)
    for rule in _PERIODS:
        _judge_periods(rule, getattr(policy, rule), points, verdict, timezone=timezone)
    _judge_age(policy.within, points, verdict)
    _judge_tags(policy.tags, points, verdict)
    if points[-1].id not in verdict.kept:
        verdict.keep(points[-1], "the latest point: always kept")
    return verdict


def _judge_last(count: int, points: Sequence[Point], verdict: _Verdict) -> None:
    if not count:
        return
    for number, point in enumerate(reversed(points), 1):
        if number <= count:
            verdict.keep(point, f"last {number} of {count}")
        else:
            verdict.pass_over(point, f"beyond the last {count}")


_PERIODS: dict[str, Callable[[datetime], str]] = {
    "hourly": lambda at: f"{at:%Y-%m-%d %H:00%z}",
    "daily": lambda at: f"{at:%Y-%m-%d}",
    "weekly": lambda at: f"{at:%G-W%V}",
    "monthly": lambda at: f"{at:%Y-%m}",
    "yearly": lambda at: f"{at:%Y}",
}
"""How the period of a rule is named, given a local time within it: no two of them alike."""


def _judge_periods(rule: str, count: int, points: Sequence[Point], verdict: _Verdict, *, timezone: tzinfo) -> None:
    if not count:
        return
    periods: dict[str, list[Point]] = {}
    for point in points:
        periods.setdefault(_PERIODS[rule](_local(point.time, timezone)), []).append(point)
    latest_first = sorted(periods, key=lambda name: max(point.time for point in periods[name]), reverse=True)
    for number, name in enumerate(latest_first, 1):
        *earlier, latest = periods[name]
        if number <= count:
            verdict.keep(latest, f"{rule} {name} ({number} of {count})")
            why = f"{rule} {name} has a later one"
        else:
            earlier, why = periods[name], f"beyond {rule} {count}"
        for point in earlier:
            if point is points[0] and len(periods) < count:
                verdict.keep(point, f"the oldest ({rule} has {len(periods)} of {count})")
            else:
                verdict.pass_over(point, why)


def _local(time: datetime, timezone: tzinfo) -> datetime:
    try:
        return time.astimezone(timezone)
    except OverflowError:  # within a day of the years 1 and 9999: a broken clock's
        return time


def _judge_age(within: timedelta | None, points: Sequence[Point], verdict: _Verdict) -> None:
    if not within:
        return
    for point in points:
        if points[-1].time - point.time <= within:
            verdict.keep(point, f"within {written_age(within)}")
        else:
            verdict.pass_over(point, f"more than {written_age(within)} older than the latest")


def _judge_tags(tags: frozenset[str], points: Sequence[Point], verdict: _Verdict) -> None:
    if not tags:
        return
    for point in points:
        if found := sorted(tags & point.tags):
            verdict.keep(point, f"tag {', '.join(found)}")
        else:
            verdict.pass_over(point, f"without tag {', '.join(sorted(tags))}")


def parse_age(text: str) -> timedelta:
    """A length of time as people write it: `36h`, `30d`, `8w`.

    Raises: ValueError.
    """
    found = re.fullmatch(r"([0-9]{1,7}) ?([hdw])", text)
    age = int(found[1]) * _UNITS[found[2]] if found else timedelta()
    if not timedelta() < age <= AGE_LIMIT:
        raise ValueError("write it as 36h, 30d or 8w, at most a hundred years")
    return age


def _written(value: int | timedelta | frozenset[str]) -> str:
    if isinstance(value, timedelta):
        return written_age(value)
    return str(value) if isinstance(value, int) else f"[{', '.join(sorted(value))}]"


def written_age(age: timedelta) -> str:
    """The same, written: in days where they are whole, else in hours."""
    days, rest = divmod(age, timedelta(days=1))
    return f"{age / timedelta(hours=1):g}h" if rest else f"{days}d"
