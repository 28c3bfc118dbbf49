"""`offhost repo gc`: give back the space of what no restore point needs."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from offhost.cli.invocation import Invocation, json_option
from offhost.cli.output import note, say, say_json
from offhost.cli.repository import interruptible, opened
from offhost.printable import size

if TYPE_CHECKING:
    from offhost.repository.collection.collect import Collected, Proposal

EXIT_WAITING = 3


@click.command()
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.option(
    "--no-wait", is_flag=True, help="Do not wait for backups that began before it: exit with 3, to be run again."
)
@json_option
@click.pass_obj
def gc(invocation: Invocation, dry_run: bool, no_wait: bool) -> int:
    """Give back the space of forgotten points: delete what nothing needs, move together what is left of old packs.

    Safe beside backups, restores and other collections, here and on other hosts. It waits for the backups that are
    running, since they may need anything; a backup that begins later is not waited for, nor disturbed. Stopped or
    killed, it goes on the next time.
    """
    from offhost.repository.collection.collect import Collector

    with interruptible() as stop, opened(invocation) as repository:
        collector = Collector(repository, stop, _Told(quiet=invocation.json), wait=not no_wait)
        if dry_run:
            return _say_proposal(collector.propose(), as_json=invocation.json)
        return _say_collected(collector.run(), as_json=invocation.json)


class _Told:
    """A line when something else is being done than before: collecting has no bar that would mean anything."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet, self._last = quiet, ""

    def __call__(self, what: str, done: int, total: int) -> None:
        if what != self._last and not self._quiet:
            self._last = what
            note(f"{what}: {total}" if total else what)


def _say_proposal(proposal: Proposal, *, as_json: bool) -> int:
    if as_json:
        described = asdict(proposal) | {
            "points": sorted(proposal.points),
            "tombstones": len(proposal.tombstones),
            "freed_bytes": proposal.freed_bytes,
        }
        say_json(described)
        return 0
    dead = sum(each.size_bytes for each in proposal.dead)
    moved = sum(each.needed_bytes for each in proposal.rewritten)
    say(f"{_many(len(proposal.points), 'forgotten point')} would be deleted")
    say(f"{_many(len(proposal.dead), 'pack')} without anything that is needed would be deleted: {size(dead)}")
    say(f"{_many(len(proposal.rewritten), 'pack')} would be rewritten: {size(moved)} moved")
    say(f"about {size(max(proposal.freed_bytes, 0))} would be free again")
    return 0


def _say_collected(collected: Collected, *, as_json: bool) -> int:
    if as_json:
        say_json(asdict(collected) | {"freed_bytes": collected.freed_bytes})
        return EXIT_WAITING if collected.waiting_for else 0
    for writer in collected.fenced:
        note(f"ended for good, since its process is gone: {writer}")
    swept = collected.swept
    if not swept.points and not swept.packs and not collected.waiting_for:
        say("Nothing to collect.")
        return 0
    say(f"{_many(swept.points, 'point')} and {_many(swept.packs, 'pack')} deleted")
    if collected.rewritten_bytes:
        say(f"{size(collected.rewritten_bytes)} that is still needed moved into new packs")
    if collected.spared_packs:
        say(f"{_many(collected.spared_packs, 'pack')} on the list kept: needed by now, or not to be moved")
    if collected.waiting_for:
        for writer in collected.waiting_for:
            note(f"still running: {writer}")
        say("The rest waits for those backups to end: run `repo gc` again then.")
        return EXIT_WAITING
    say(f"{size(max(collected.freed_bytes, 0))} free again")
    return 0


def _many(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
