"""Policies and histories with what is kept and why, one file each: a change of any decision shows as a difference.

A file has a line of what it shows; the policy, the time zone, the time, whether the VM is deleted; then a line for
each point: its sequence (a letter tells points of one sequence apart), its time, what is special about it, what
becomes of it, and why. `OFFHOST_UPDATE_GOLDENS=1` writes the last two columns anew, to be read before they are kept.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from offhost.retention import Decision, Point, RetentionPolicy, apply, parse_age, written_age

GOLDENS = Path(__file__).parent / "goldens"
COUNTS = ("keep_last", "hourly", "daily", "weekly", "monthly", "yearly")


@dataclass(frozen=True)
class Case:
    """One file."""

    title: str
    settings: dict[str, str]
    points: tuple[Point, ...]

    @property
    def policy(self) -> RetentionPolicy:
        rules: dict[str, Any] = {}
        for rule in filter(None, self.settings["policy"].split(", ")):
            name, _, value = rule.partition(" ")
            if name in COUNTS:
                rules[name] = int(value)
            else:
                rules[name] = frozenset(value.split()) if name == "tags" else parse_age(value)
        return RetentionPolicy(**rules)

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.settings["zone"])

    def decisions(self) -> list[Decision]:
        deleted = "deleted" in self.settings
        now = datetime.fromisoformat(self.settings["now"])
        return apply(self.policy, self.points, now=now, timezone=self.zone, deleted=deleted)


def parse(text: str) -> Case:
    title, settings, points = text.split("\n\n")
    lines = [line.partition(" ") for line in settings.splitlines()]
    pairs = {name: value.strip() for name, _, value in lines}
    return Case(title, pairs, tuple(map(_point, points.splitlines())))


def _point(line: str) -> Point:
    name, time, special, *_ = (column.strip() for column in line.split("|"))
    marks = [mark.partition(" ") for mark in filter(None, special.split(", "))]
    return Point(
        id=name,
        sequence=int(name.rstrip("abc")),
        time=datetime.fromisoformat(time),
        tags=frozenset(value for mark, _, value in marks if mark == "tag"),
        pins=tuple(value for mark, _, value in marks if mark == "pin"),
        damaged=any(mark == "damaged" for mark, _, _ in marks),
    )


def render(case: Case, decisions: Sequence[Decision]) -> str:
    rows = [(*_described(each.point, case.zone), _fate(each), "; ".join(each.reasons)) for each in decisions]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        " | ".join((*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4])) for row in rows
    ]
    settings = [f"{name:8}{value}".rstrip() for name, value in case.settings.items()]
    return "\n\n".join((case.title, "\n".join(settings), "\n".join(lines))) + "\n"


def _described(point: Point, zone: ZoneInfo) -> tuple[str, str, str]:
    marks = [*(f"pin {note}" for note in point.pins), *(f"tag {tag}" for tag in sorted(point.tags))]
    special = ", ".join([*marks, *(["damaged"] if point.damaged else [])])
    return point.id, point.time.astimezone(zone).isoformat(timespec="minutes"), special


def _fate(decision: Decision) -> str:
    return "keep" if decision.keep else "expire"


@pytest.mark.parametrize("file", sorted(GOLDENS.glob("*.txt")), ids=lambda file: file.stem)
def test_golden(file: Path) -> None:
    case = parse(file.read_text())
    decided = render(case, case.decisions())
    if os.environ.get("OFFHOST_UPDATE_GOLDENS"):
        file.write_text(decided)
    assert file.read_text() == decided


def test_there_are_goldens() -> None:
    assert len(list(GOLDENS.glob("*.txt"))) >= 40


@pytest.mark.parametrize(("text", "written"), [("36h", "36h"), ("48h", "2d"), ("30d", "30d"), ("8w", "56d")])
def test_an_age_is_written_in_days_where_it_has_whole_ones(text: str, written: str) -> None:
    assert written_age(parse_age(text)) == written


def test_a_policy_is_written_as_a_job_has_it() -> None:
    policy = RetentionPolicy(keep_last=3, daily=14, within=parse_age("36h"), tags=frozenset(["b", "a"]))
    assert str(policy) == "keep_last: 3, daily: 14, within: 36h, tags: [a, b]"
    assert str(RetentionPolicy()) == "everything is kept"


@pytest.mark.parametrize("text", ["", "30", "d", "-3d", "0d", "1.5d", "30 days", "1m", "9999999w", "3d4h"])
def test_what_is_no_age_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write it as 36h, 30d or 8w"):
        parse_age(text)
