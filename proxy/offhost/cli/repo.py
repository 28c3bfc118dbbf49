"""`offhost repo …`: create, measure and verify a repository."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from offhost.cli.invocation import Invocation, json_option
from offhost.cli.output import say, say_json, size
from offhost.cli.repository import located, opened, unlocked
from offhost.cli.verifying import verify


@click.group()
def repo() -> None:
    """Create, measure and verify a repository."""


repo.add_command(verify)


@repo.command()
@click.option("--like", metavar="REPO", help="Cut disks as this repository does: copies between the two are faster.")
@click.option(
    "--like-passphrase-file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="That one's, instead of OFFHOST_LIKE_PASSPHRASE; without either, what is said for all repositories.",
)
@click.pass_obj
def init(invocation: Invocation, like: str | None, like_passphrase_file: Path | None) -> None:
    """Make a repository in a new or empty directory, sealed with the passphrase."""
    from offhost.repository.repository import create

    root, secret = located(invocation)
    other = unlocked(invocation.for_role("LIKE", like, like_passphrase_file)) if like else None
    create(root, secret, cut_secret=other.config.cut_secret if other else None)
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
