"""`offhost keys …`: what opens a repository."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from offhost.cli.invocation import Invocation, json_option
from offhost.cli.output import note, say, say_json, table
from offhost.cli.repository import located, place
from offhost.cli.unlocking import UnlockOptions, key_in, passphrase_in, recovery_key_in
from offhost.errors import Conflict, UsageError

if TYPE_CHECKING:
    from offhost.repository.access import Access, WayIn
    from offhost.repository.keys.credentials import RecoveryKey, Secret, Unlock

_KINDS = {"passphrase": "passphrase", "keyfile": "key file", "recovery": "recovery key", "plain": "none needed"}
_STANDINGS = {
    "good": "opens it",
    "outdated": "out of date: does not open it",
    "unfinished": "of a `keys rotate` that was cut short: does not open it",
    "unmarked": "made by an earlier version",
    "unknown": "not made by a holder of its keys",
}

_path = click.Path(path_type=Path)
_yes = click.option("--yes", is_flag=True, help="Do not ask.")


@click.group()
def keys() -> None:
    """List, add and remove what opens a repository."""


@keys.command("list")
@json_option
@click.pass_obj
def list_(invocation: Invocation) -> None:
    """Show every way in, and which of them opened the repository just now."""
    access = _opened(invocation)
    if invocation.json:
        say_json(access.ways())
    else:
        _print(access.ways())


@keys.command()
@click.option(
    "--passphrase-file", metavar="FILE", type=_path, help="Add the passphrase in the first line of this file."
)
@click.option("--key-file", metavar="FILE", type=_path, help="Make this key file, and add it.")
@click.option("--recovery", is_flag=True, help="Make a recovery key, add it, and print it: once.")
@click.option("--label", default="", metavar="TEXT", help="What to call it in lists; everybody can read it.")
@json_option
@click.pass_obj
def add(
    invocation: Invocation, *, passphrase_file: Path | None, key_file: Path | None, recovery: bool, label: str
) -> None:
    """Let a further secret open the repository. Nothing that is stored is written anew."""
    if sum(map(bool, (passphrase_file, key_file, recovery))) != 1:
        raise UsageError("what is to be added?", hint="exactly one of --passphrase-file, --key-file and --recovery")
    if recovery:
        print_recovery_key(*located(invocation), label=label, as_json=invocation.json)
        return
    way = _add(_opened(invocation), passphrase_file, key_file, label)
    if invocation.json:
        say_json(way)
    else:
        say(f"Added {_named(way)}.")


@keys.command()
@click.argument("wrapper", metavar="ID")
@_yes
@click.pass_obj
def remove(invocation: Invocation, wrapper: str, yes: bool) -> None:
    """Take a way in away: its secret opens the repository no more.

    Never the last; and the one in use only with --yes.
    """
    access = _opened(invocation)
    way = access.find(wrapper)
    access.check_removable(way)
    if way.in_use and not yes:
        raise Conflict(f"{_named(way)} opened the repository just now", hint="if it is the one to go, say --yes")
    left = [_named(other) for other in access.ways() if other.standing == "good" and other.id != way.id]
    note(f"{_named(way)} will be removed. What opens the repository then: {', '.join(left)}.")
    note(
        "Who has used it may have kept the keys beneath it, which stay the same: to keep what is written from now on "
        "from them too, run `offhost keys rotate` afterwards."
    )
    _confirm("Remove it?", yes)
    access.remove(way)
    say(f"Removed {_named(way)}.")


@keys.command()
@click.option("--passphrase-file", metavar="FILE", type=_path, help="The new passphrase: the first line of this file.")
@click.option("--key-file", metavar="FILE", type=_path, help="Make this key file, and add it.")
@click.option("--label", default="", metavar="TEXT", help="What to call it in lists; everybody can read it.")
@click.pass_obj
def recover(invocation: Invocation, *, passphrase_file: Path | None, key_file: Path | None, label: str) -> None:
    """Open the repository with its recovery key, and give it a new passphrase or key file.

    The recovery key is asked for, or given by --recovery-key-file (before `keys`) or OFFHOST_RECOVERY_KEY.
    """
    if (passphrase_file is None) == (key_file is None):
        raise UsageError("what is to open it from now on?", hint="one of --passphrase-file and --key-file")
    access = _recovered(invocation)
    way = _add(access, passphrase_file, key_file, label)
    say(f"Added {_named(way)}. The recovery key opens the repository as before.")
    for other in access.ways():
        if other.kind in ("passphrase", "keyfile") and other.standing == "good" and other.id != way.id:
            say(f"Still there: {_named(other)}. If it is lost for good: offhost keys remove {other.id[:8]}")


@keys.command()
@click.option(
    "--keep-passphrase-file", "passphrases", metavar="FILE", type=_path, multiple=True, help="Keep this passphrase too."
)
@click.option("--keep-key-file", "key_files", metavar="FILE", type=_path, multiple=True, help="Keep this key file too.")
@click.option(
    "--keep-recovery-key-file",
    "recovery_keys",
    metavar="FILE",
    type=_path,
    multiple=True,
    help="Keep this recovery key too.",
)
@_yes
@click.pass_obj
def rotate(
    invocation: Invocation,
    *,
    passphrases: tuple[Path, ...],
    key_files: tuple[Path, ...],
    recovery_keys: tuple[Path, ...],
    yes: bool,
) -> None:
    """Seal all that is written from now on with a new key, which nobody knew before.

    What is there is not written anew, and stays readable to who knew its key. Kept are the secret that opens the
    repository now and those named here; every other way in is dropped, since it cannot learn the new key.
    """
    access = _opened(invocation)
    others: list[Secret] = [
        *map(passphrase_in, passphrases),
        *map(key_in, key_files),
        *map(recovery_key_in, recovery_keys),
    ]
    rotation = access.rotation(others)
    for _, ways in rotation.kept:
        note(f"Kept: {_named(ways[-1])}.")
    for way in rotation.dropped:
        note(f"Dropped: {_named(way)}: it will not open the repository any more.")
    _confirm("Begin a new key epoch?", yes)
    _print(access.rotate(rotation))


def print_recovery_key(root: Path, unlock: Unlock, *, label: str, as_json: bool = False) -> None:
    """Add a new recovery key to a repository, and show it this once."""
    from offhost.repository.access import Access
    from offhost.repository.keys.credentials import RecoveryKey

    key = RecoveryKey.new()
    way = Access.open(root, unlock).add(key, label=label)
    if as_json:
        say_json(asdict(way) | {"recovery_key": key.text()})
        return
    note(f"Added {_named(way)}. It is shown this once: write it down, and keep it away from this machine.")
    say(key.text())


def _opened(invocation: Invocation) -> Access:
    from offhost.repository.access import Access

    return Access.open(*located(invocation))


def _recovered(invocation: Invocation) -> Access:
    """The repository as the recovery key opens it, whatever else is said or set."""
    from offhost.repository.access import Access

    return Access.open(place(invocation), _recovery_key(invocation.unlock))


def _recovery_key(options: UnlockOptions) -> RecoveryKey:
    """From its file, else from its variable, else asked for until it is typed right."""
    from offhost.repository.keys.credentials import RecoveryKey

    if options.given not in ([], ["recovery_key_file"]):
        raise UsageError("the recovery key is what opens it here", hint="give --recovery-key-file, or nothing")
    if options.recovery_key_file:
        return recovery_key_in(options.recovery_key_file)
    if typed := os.environ.get("OFFHOST_RECOVERY_KEY"):
        return RecoveryKey.parse(typed)
    if not sys.stdin.isatty():
        raise UsageError(
            "the recovery key is not given", hint="name a --recovery-key-file, or set OFFHOST_RECOVERY_KEY"
        )

    def read(text: str) -> RecoveryKey:
        try:
            return RecoveryKey.parse(text)
        except UsageError as error:
            raise click.UsageError(error.message) from error

    key: RecoveryKey = click.prompt("Recovery key", value_proc=read, err=True)
    return key


def _add(access: Access, passphrase_file: Path | None, key_file: Path | None, label: str) -> WayIn:
    """Add a passphrase, or a key file that is made here and taken back when that fails."""
    from offhost.repository.keys.credentials import KeyFile

    if passphrase_file:
        return access.add(passphrase_in(passphrase_file), label=label)
    assert key_file
    key = KeyFile.new()
    key.save(key_file)
    try:
        return access.add(key, label=label)
    except BaseException:
        key_file.unlink()  # nothing was sealed with it
        raise


def _confirm(question: str, yes: bool) -> None:
    """Ask on a terminal; elsewhere only --yes will do."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError("not done without being asked for twice", hint="say --yes, or call it from a terminal")
    click.confirm(question, abort=True, err=True)


def _print(ways: list[WayIn]) -> None:
    header = ("ID", "KIND", "LABEL", "CREATED", "EPOCH", "IN USE", "STANDING")
    table(header, [_row(way) for way in ways])


def _row(way: WayIn) -> tuple[str, ...]:
    epoch = "" if way.epoch is None else str(way.epoch)
    created = way.created or ""
    return (
        way.id[:8],
        _KINDS.get(way.kind, way.kind),
        way.label,
        created,
        epoch,
        "*" if way.in_use else "",
        _STANDINGS[way.standing],
    )


def _named(way: WayIn) -> str:
    label = f" “{way.label}”" if way.label else ""
    return f"the {_KINDS.get(way.kind, way.kind)}{label} ({way.id[:8]})"
