"""`offhost repo stats`: what a repository holds, what that takes, and what forgetting would free."""

from __future__ import annotations

import sys
import threading
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from offhost.cli.invocation import Invocation, json_option
from offhost.cli.output import note, say, say_json, table
from offhost.cli.repository import interruptible, opened
from offhost.clock import SystemClock
from offhost.errors import Stopped
from offhost.printable import size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from offhost.repository.statistics.growth import Growth, Period
    from offhost.repository.statistics.stats import Stats

EXIT_INCOMPLETE = 3

_BAR_CELLS = 40
_EIGHTHS = " ▏▎▍▌▋▊▉"
_PERIODS_CHARTED = 12
_TELL_EVERY_S = 2.0


@click.command()
@click.option("--vms", "view", flag_value="vms", help="A line for each VM, the one that frees most first.")
@click.option("--points", "view", flag_value="points", help="A line for each restore point.")
@click.option("--growth", "period", type=click.Choice(["day", "week", "month"]), help="What was stored, by period.")
@json_option
@click.pass_obj
def stats(invocation: Invocation, view: str | None, period: Period | None) -> int:
    """Show what the repository holds, and what deduplication and compression save.

    \b
    BACKED UP  what the restore points hold, without holes, each point counted whole
    DIFFERENT  the different chunks of that, before compression
    STORED     all bytes of the repository's objects; with --points and --growth what
               the runs stored when they made the points, as far as it was recorded
    FREES      what lies there for one point, or one VM, alone: chunks and maps that
               no other needs. Several together free more than one by one. It is
               room again after `repo gc`.

    Exits with 3 when a point or a map cannot be read, so that figures are missing something.
    """  # noqa: D301 - click is to see the character itself
    from offhost.repository.statistics.stats import stats as count

    with interruptible() as stop, opened(invocation) as repository:
        found = count(repository, _Told(stop, quiet=invocation.json))
    for problem in found.unreadable:
        note(f"warning: {problem}")
    if found.missing_chunks:
        note(f"warning: {found.missing_chunks} chunks are in no pack: `repo verify` tells what that harms")
    if invocation.json:
        say_json(_described(found, period or "month"))
    elif view == "vms":
        _say_vms(found)
    elif view == "points":
        _say_points(found)
    elif period:
        _say_growth(_grown(found, period))
    else:
        _say_whole(found)
    return EXIT_INCOMPLETE if found.unreadable or found.missing_chunks else 0


class _Told:
    """Says now and then how far the count is: a large repository takes minutes."""

    def __init__(self, stop: threading.Event, *, quiet: bool) -> None:
        self._stop, self._quiet = stop, quiet
        self._clock = SystemClock()
        self._last = self._clock.monotonic()

    def __call__(self, done: int, total: int) -> None:
        if self._stop.is_set():
            raise Stopped("the count was stopped before its end")
        now = self._clock.monotonic()
        if not self._quiet and done < total and now - self._last >= _TELL_EVERY_S:
            self._last = now
            note(f"looked at {done} of {total} restore points")


def _grown(found: Stats, period: Period) -> list[Growth]:
    from offhost.repository.statistics.growth import growth

    return growth([(point.time, point.stored_bytes) for point in found.by_point], period)


def _described(found: Stats, period: Period) -> dict[str, Any]:
    """Names and units are promised: fields may be added, and none is renamed."""
    described = asdict(found)
    for each in (*described["by_vm"], *described["by_point"]):
        each.update({name: each[name].isoformat() for name in ("time", "oldest", "newest") if name in each})
    return described | {"growth": {"by": period, "periods": [asdict(each) for each in _grown(found, period)]}}


def _say_whole(found: Stats) -> None:
    held, parts, stored = found.by_point, found.storage, found.stored_bytes
    days = sorted({f"{point.time:%Y-%m-%d}" for point in held})
    since = f", {days[0]} to {days[-1]}" if days else ""
    counts = (found.points, "restore point"), (found.vms, "VM"), (found.chunks, "chunk"), (found.packs, "pack")
    points, vms, chunks, packs = (f"{count} {what}{'' if count == 1 else 's'}" for count, what in counts)
    say(f"{points} of {vms}{since}; {chunks} in {packs}")
    maps = parts.leaves_bytes + parts.list_pages_bytes
    table(
        ("", "SIZE", "", ""),
        [
            ("backed up", size(found.plain_bytes), "", f"of disks of {size(found.size_bytes)} in all"),
            ("different", size(found.unique_bytes), "", _times(found.deduplication, "by deduplication")),
            ("stored", size(stored), "", _times(found.saving, "than what was backed up")),
            ("  content", *_part(parts.content_bytes, stored), _times(found.compression, "by compression")),
            ("  disk maps", *_part(maps, stored), f"leaves {size(parts.leaves_bytes)}, list pages the rest"),
            ("  directories", *_part(parts.directories_bytes, stored), "of packs"),
            ("  index runs", *_part(parts.index_runs_bytes, stored), ""),
            ("  points", *_part(parts.points_bytes, stored), ""),
            ("  other", *_part(parts.other_bytes, stored), "configuration, keys, sessions, marks"),
            ("  not needed", *_part(parts.unneeded_bytes, stored), _collectable(found)),
            ("metadata", *_part(found.metadata_bytes, stored), "of that: maps, directories, index runs, points"),
        ],
    )
    days_held = (max(point.time for point in held) - min(point.time for point in held)).days if held else 0
    grown = _grown(found, "day" if days_held < _PERIODS_CHARTED else "week" if days_held < 90 else "month")
    if sys.stdout.isatty() and len(grown) > 1 and any(each.stored_bytes for each in grown):
        say()
        _say_growth(grown[-_PERIODS_CHARTED:])


def _part(size_bytes: int, stored_bytes: int) -> tuple[str, str]:
    return size(size_bytes), f"{size_bytes / stored_bytes:.1%}" if stored_bytes else ""


def _times(ratio: float | None, how: str) -> str:
    return f"{ratio:.1f} times less {how}" if ratio and ratio >= 1 else ""


def _collectable(found: Stats) -> str:
    if found.collectable is None:
        return "`repo gc` would free nothing while something cannot be read"
    free = found.collectable.bytes + found.collectable.bytes_by_rewriting
    return f"`repo gc` would free up to {size(free)} now" if free else ""


def _say_vms(found: Stats) -> None:
    table(
        ("VM", "POINTS", "NEWEST (UTC)", "DISKS", "BACKED UP", "FREES"),
        [
            (
                vm.vm,
                str(vm.points),
                f"{vm.newest:%Y-%m-%d %H:%M:%S}",
                size(vm.size_bytes),
                size(vm.plain_bytes),
                size(vm.frees_bytes),
            )
            for vm in sorted(found.by_vm, key=lambda vm: (-vm.frees_bytes, vm.vm, vm.vm_id))
        ],
    )


def _say_points(found: Stats) -> None:
    table(
        ("POINT", "VM", "TIME (UTC)", "KIND", "BACKED UP", "STORED", "FREES"),
        [
            (
                point.point[:12],
                point.vm,
                f"{point.time:%Y-%m-%d %H:%M:%S}",
                point.kind,
                size(point.plain_bytes),
                "–" if point.stored_bytes is None else size(point.stored_bytes),
                size(point.frees_bytes),
            )
            for point in found.by_point
        ],
    )


def _say_growth(grown: Sequence[Growth]) -> None:
    rows = [(each.period, str(each.points), size(each.stored_bytes)) for each in grown]
    if not sys.stdout.isatty():
        table((), rows)
        return
    most = max((each.stored_bytes for each in grown), default=0) or 1
    bars = [_bar(each.stored_bytes / most) for each in grown]
    table(("PERIOD", "POINTS", "STORED", ""), [(*row, bar) for row, bar in zip(rows, bars, strict=True)])


def _bar(share: float) -> str:
    """A bar of block characters, to an eighth of a cell; what is not nothing shows."""
    eighths = max(round(share * _BAR_CELLS * 8), 1) if share else 0
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()
