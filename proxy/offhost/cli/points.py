"""`offhost points …`: what can be restored, what is to stay, and what is given up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from offhost.cli.invocation import Invocation, json_option
from offhost.cli.output import note, say, say_json, table
from offhost.cli.repository import unlocked
from offhost.errors import UsageError
from offhost.printable import size

if TYPE_CHECKING:
    from offhost.errors import IntegrityError
    from offhost.ids import SessionId
    from offhost.repository.points.manifest import Manifest
    from offhost.repository.unlocked import UnlockedRepository

_NOTE_LIMIT = 200


@click.group()
def points() -> None:
    """List restore points, keep them, give them up."""


@points.command(name="list")
@click.option("--vm", metavar="VM", help="Only this VM's, by name or identity.")
@click.option("--forgotten", is_flag=True, help="Those that were forgotten and are not collected yet, instead.")
@json_option
@click.pass_obj
def list_(invocation: Invocation, vm: str | None, forgotten: bool) -> int:
    """List the restore points, oldest first within a VM. Exits with 3 when one of them does not open.

    What was forgotten comes back with `offhost points pin`, until `offhost repo gc` has collected it.
    """
    repository = unlocked(invocation)
    marked: Mapping[SessionId, str]
    if forgotten:
        found, damaged, marked = _forgotten(repository)
    else:
        found, damaged = repository.points.read()
        marked = _pinned(repository)
    found = [point for point in found if vm in (None, point.vm_name, point.vm_id)]
    mark = "forgotten" if forgotten else "pinned"
    if invocation.json:
        say_json([_described(point) | ({mark: marked[point.id]} if point.id in marked else {}) for point in found])
    else:
        _print(found, marked, mark)
    for error in damaged:
        note(f"warning: {error}")
    return 3 if damaged else 0


def _pinned(repository: UnlockedRepository) -> dict[SessionId, str]:
    """The notes on the points that are pinned."""
    notes: dict[SessionId, str] = {}
    for pin in repository.marks.pins():
        notes[pin.point] = f"{notes[pin.point]}; {pin.note}" if pin.point in notes else pin.note or "pinned"
    return notes


def _forgotten(
    repository: UnlockedRepository,
) -> tuple[list[Manifest], list[IntegrityError], Mapping[SessionId, str]]:
    why = repository.marks.why_forgotten()
    if not why:
        return [], [], why
    points, unreadable = repository.points.survey(gone=repository.graveyard.read_tolerant().swept_points)
    damaged = [error for name, error in unreadable.items() if name.rpartition("/")[2] in why]
    return [point for point in points if point.id in why], damaged, why


def _print(found: Sequence[Manifest], marked: Mapping[SessionId, str], mark: str) -> None:
    """The table; the columns for tags and marks are there when there are any."""
    from offhost.repository.points.manifest import tags_of

    header = ["POINT", "VM", "TIME (UTC)", "KIND", "CONSISTENCY", "DISKS", "SIZE"]
    rows = [_row(point) for point in found]
    if any(map(tags_of, found)):
        header.append("TAGS")
        rows = [(*row, " ".join(tags_of(point))) for row, point in zip(rows, found, strict=True)]
    if any(point.id in marked for point in found):
        header.append(mark.upper())
        rows = [(*row, marked.get(point.id, "")) for row, point in zip(rows, found, strict=True)]
    table(tuple(header), rows)


@points.command()
@click.argument("points", metavar="POINT...", nargs=-1, required=True)
@click.option("--last", is_flag=True, help="Also the last restore point of a VM.")
@click.option("--dry-run", is_flag=True, help="Tell what would be forgotten, and forget nothing.")
@json_option
@click.pass_obj
def forget(invocation: Invocation, *, points: tuple[str, ...], last: bool, dry_run: bool) -> None:
    """Give restore points up. Their space comes back with `offhost repo gc`; until then `points pin` takes them back.

    The last restore point of a VM is forgotten only when it is named by its full id, or with --last; one that does not
    open, only by its full id.
    """
    from offhost.repository.lifetime.pinning import forget as put
    from offhost.repository.lifetime.pinning import named

    repository = unlocked(invocation)
    chosen = named(repository, points, last_too=last)
    if not dry_run:
        put(repository, chosen)
    if invocation.json:
        say_json([{"id": point.id, "vm": point.vm_name, "forgotten": not dry_run} for point in chosen])
    else:
        for point in chosen:
            say(f"{'Would forget' if dry_run else 'Forgot'} {point}")
    if not dry_run:
        note("Their space comes back with `offhost repo gc`.")


@points.command()
@click.argument("point")
@click.option("--note", "why", metavar="TEXT", default="", help="Why it is kept; shown wherever the pin is.")
@json_option
@click.pass_obj
def pin(invocation: Invocation, point: str, why: str) -> None:
    """Keep a restore point, whatever the retention says; also takes back one that was forgotten, until collected."""
    from offhost.repository.lifetime.pinning import pin as put

    if len(why) > _NOTE_LIMIT:
        raise UsageError(f"a note of {len(why)} characters", hint=f"at most {_NOTE_LIMIT}")
    pinned = put(unlocked(invocation), point, why)
    if invocation.json:
        say_json({"id": pinned.id, "vm": pinned.vm_name, "pinned": why})
    else:
        say(f"Pinned {pinned}: it stays until `offhost points unpin {pinned.id[:12]}`.")


@points.command()
@click.argument("point")
@json_option
@click.pass_obj
def unpin(invocation: Invocation, point: str) -> None:
    """Take the pins off a restore point; from then on the retention decides on it."""
    from offhost.repository.lifetime.pinning import unpin as take_off

    unpinned, forgotten = take_off(unlocked(invocation), point)
    if invocation.json:
        say_json({"id": unpinned.id, "vm": unpinned.vm_name, "forgotten": forgotten})
    elif forgotten:
        say(f"Unpinned {unpinned}: it was forgotten before, and is so again.")
    else:
        say(f"Unpinned {unpinned}.")


def _described(point: Manifest) -> dict[str, Any]:
    from offhost.repository.points.manifest import tags_of

    return {
        "id": point.id,
        "vm": point.vm_name,
        "vm_id": point.vm_id,
        "time": point.time.isoformat(),
        "kind": point.kind,
        "consistency": point.consistency,
        "tags": tags_of(point),
        "disks": [
            {"key": disk.key, "label": disk.label, "size_bytes": disk.size_bytes, "data_bytes": disk.map.data_bytes}
            for disk in point.disks
        ],
    }


def _row(point: Manifest) -> tuple[str, ...]:
    keys = " ".join(disk.key for disk in point.disks)
    total = size(sum(disk.size_bytes for disk in point.disks))
    return (point.id[:12], point.vm_name, f"{point.time:%Y-%m-%d %H:%M:%S}", point.kind, point.consistency, keys, total)
