"""`offhost repo …`: create, measure and verify a repository."""

from __future__ import annotations

from dataclasses import asdict

import click

from offhost.cli.invocation import Invocation, json_option
from offhost.cli.output import note, say, say_json, size
from offhost.cli.progress import shown
from offhost.cli.repository import interruptible, located, opened


@click.group()
def repo() -> None:
    """Create, measure and verify a repository."""


@repo.command()
@click.pass_obj
def init(invocation: Invocation) -> None:
    """Make a repository in a new or empty directory, sealed with the passphrase."""
    from offhost.repository.repository import create

    root, secret = located(invocation)
    create(root, secret)
    say(f"Made a repository in {root}.")
    say("Keep its passphrase: without it nothing in the repository can ever be read.")


@repo.command()
@json_option
@click.pass_obj
def stats(invocation: Invocation) -> None:
    """Show what the repository holds and what deduplication and compression save."""
    from offhost.repository.stats import stats as count

    with opened(invocation) as repository:
        found = count(repository)
    if invocation.json:
        say_json(asdict(found))
        return
    say(f"Restore points: {found.points}, VMs: {found.vms}, chunks: {found.chunks}, packs: {found.packs}")
    unique, stored = size(found.unique_bytes), size(found.stored_bytes)
    say(f"{size(found.plain_bytes)} backed up, {unique} of it different, {stored} stored")
    if found.stored_bytes:
        say(f"{found.plain_bytes / found.stored_bytes:.1f} times smaller than what was backed up")


@repo.command()
@click.option("--data", is_flag=True, help="Read and check every byte, not only that everything is there.")
@json_option
@click.pass_obj
def verify(invocation: Invocation, data: bool) -> int:
    """Check that everything the restore points need is there; with --data, that every byte is right."""
    from offhost.repository.verify import verify as check

    with interruptible() as stop, opened(invocation) as repository, shown(quiet=invocation.json) as progress:
        report = check(repository, data=data, progress=lambda done, total: progress("packs", done, total), stop=stop)
    if invocation.json:
        say_json(asdict(report) | {"ok": not report.damage})
    else:
        read = f", {size(report.read_bytes)} read" if data else ""
        say(f"{report.points} points, {report.packs} packs with {report.chunks} chunks{read}")
        for damage in report.damage:
            note(f"damaged: {damage.what}")
            for harm in damage.harms:
                note(f"  harms {harm}")
        say("All is right." if not report.damage else f"{len(report.damage)} things are damaged.")
    return 1 if report.damage else 0
