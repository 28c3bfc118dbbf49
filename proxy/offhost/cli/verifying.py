"""`offhost repo verify` and `rebuild`: is everything there, is it what was written, and what is harmed where it is not;
the index made anew.
"""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from offhost.cli.invocation import Invocation, json_option
from offhost.cli.output import note, say, say_json
from offhost.cli.progress import shown
from offhost.cli.repository import interruptible, opened
from offhost.errors import UsageError
from offhost.printable import size

if TYPE_CHECKING:
    from offhost.repository.verification.verify import Reading, VerifyReport

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_RATE = re.compile(r"(\d+(?:\.\d+)?) *([KMG]?)(?:i?B)?(?:/s)?", re.IGNORECASE)
_SHARE = re.compile(r"(\d+(?:\.\d+)?) *%")


class _Rate(click.ParamType[float]):
    name = "RATE"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """`100MiB/s` in bytes a second; units are powers of two."""
        found = _RATE.fullmatch(str(value))
        if found is None or not (rate := float(found[1]) * _UNITS[found[2].upper()]):
            self.fail(f"{value!r} is no rate; write it as 100MiB/s", param, ctx)
        return rate


class _Share(click.ParamType[float]):
    name = "PERCENT"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """`5%` as 0.05."""
        found = _SHARE.fullmatch(str(value))
        if found is None or not 0 < (share := float(found[1]) / 100) <= 1:
            self.fail(f"{value!r} is no share; write it as 5%", param, ctx)
        return share


@click.command()
@click.option("--data", is_flag=True, help="Read and check every byte, not only that everything is there.")
@click.option("--sample", type=_Share(), help="Read this share of the bytes, such as 5%, those read longest ago first.")
@click.option("--read-rate", type=_Rate(), help="Read no faster than this, such as 100MiB/s.")
@click.option("--anew", is_flag=True, help="With --data: do not go on with one that was stopped.")
@click.option(
    "--point", metavar="POINT", help="Read this restore point end to end, as a restore would, and nothing else."
)
@click.option("--disk", "key", metavar="KEY", help="With --point: only this disk.")
@json_option
@click.pass_obj
def verify(
    invocation: Invocation,
    *,
    data: bool,
    sample: float | None,
    read_rate: float | None,
    anew: bool,
    point: str | None,
    key: str | None,
) -> int:
    """Check that everything the restore points need is there; with --data, that every byte is right.

    Damage is named with the VMs, points and disks it harms, and marked, so that the next backups store anew what the
    disks still hold. Exits with 1 when anything is damaged. Stopped with Ctrl-C, --data goes on the next time.
    """
    from offhost.repository.verification.verify import Reading

    if point and (data or sample or read_rate or anew):
        raise UsageError("--point reads one restore point: give it without --data, --sample, --read-rate and --anew")
    if key and not point:
        raise UsageError("--disk chooses among the disks of a --point")
    if (read_rate or anew) and not (data or sample):
        raise UsageError("--read-rate and --anew go with --data or --sample")
    if point:
        report = _verified_point(invocation, point, key)
    else:
        reading = Reading(share=sample or 1.0, bytes_per_s=read_rate, anew=anew) if data or sample else None
        report = _verified(invocation, reading)
    if invocation.json:
        say_json(_for_programs(report))
    else:
        _print(report)
    return 1 if report.damage else 0


@click.command()
@json_option
@click.pass_obj
def rebuild(invocation: Invocation) -> int:
    """Make the index anew from the packs themselves, here and in the repository; no data is touched.

    For an index that is lost, damaged or wrong. Backups may run meanwhile. Exits with 1 when packs do not open.
    """
    from offhost.repository.verification.rebuild import rebuild as make_anew

    with interruptible() as stop, opened(invocation) as repository, shown(quiet=invocation.json) as progress:
        report = make_anew(repository, progress=lambda done, total: progress("packs", done, total), stop=stop)
    if invocation.json:
        say_json(report)
    else:
        say(f"{report.packs} packs with {report.chunks} chunks are indexed.")
        say(f"{report.runs_put} index runs were put, {report.runs_removed} removed.")
        for problem in report.wrong:
            note(f"was wrong: {problem}")
        for problem in report.unreadable:
            note(f"damaged: {problem}")
        for pack in report.vanished:
            note(f"damaged: {pack} has vanished")
        if report.unreadable or report.vanished:
            note("hint: `offhost repo verify` tells what this harms; the next backups store it anew as far as they can")
    return 1 if report.unreadable or report.vanished else 0


def _verified(invocation: Invocation, reading: Reading | None) -> VerifyReport:
    from offhost.repository.verification.verify import verify as check

    with interruptible() as stop, opened(invocation) as repository, shown(quiet=invocation.json) as progress:
        return check(
            repository, reading=reading, progress=lambda done, total: progress("packs", done, total), stop=stop
        )


def _verified_point(invocation: Invocation, text: str, key: str | None) -> VerifyReport:
    from offhost.chunking.workers import SpanWorkers
    from offhost.repository.verification.endtoend import verify_point

    with (
        interruptible() as stop,
        opened(invocation) as repository,
        SpanWorkers() as workers,
        shown(quiet=invocation.json) as progress,
        repository.reading(repository.points.find(text)) as point,
    ):
        return verify_point(point, key, workers=workers, progress=progress, stop=stop)


def _for_programs(report: VerifyReport) -> dict[str, Any]:
    since = report.continued_from
    return asdict(report) | {"continued_from": since.isoformat() if since else None, "ok": not report.damage}


def _print(report: VerifyReport) -> None:
    if report.continued_from:
        say(f"Went on with what was begun at {report.continued_from:%Y-%m-%d %H:%M:%S} UTC.")
    looked_at = [f"{report.points} restore points"]
    if report.packs:
        looked_at.append(f"{report.packs} packs with {report.chunks} chunks")
    if report.read_bytes:
        looked_at.append(f"{size(report.read_bytes)} read and checked")
    say(f"{', '.join(looked_at)}.")
    for healed in report.healed:
        note(f"healed: {healed}")
    hints = dict.fromkeys(damage.hint for damage in report.damage)
    for hint in hints:
        for damage in report.damage:
            if damage.hint == hint:
                note(f"damaged: {damage.what}")
                for harm in damage.harms:
                    note(f"  harms {harm}")
        if hint:
            note(f"hint: {hint}")
    count = len(report.damage)
    say("All is right." if not count else f"{count} thing{'s are' if count > 1 else ' is'} damaged.")
