"""`offhost repo init`: a repository is made, and what is lost with its key is said first."""

from __future__ import annotations

from pathlib import Path

import click

from offhost.cli.invocation import Invocation
from offhost.cli.keys import print_recovery_key
from offhost.cli.output import note, say
from offhost.cli.repository import located, unlocked
from offhost.cli.unlocking import UnlockOptions, unlock_options
from offhost.errors import UsageError


@click.command()
@click.option(
    "--key-file", metavar="FILE", type=click.Path(path_type=Path), help="Make this key file, to open it with."
)
@click.option("--unencrypted", is_flag=True, help="Protect nothing: whoever gets at its files can read and forge them.")
@click.option("--recovery-key", is_flag=True, help="Also print a recovery key, once, to be written down.")
@click.option("--like", metavar="REPO", help="Cut disks as this repository does: copies between the two are faster.")
@unlock_options("like_", "that one's")
@click.pass_obj
def init(
    invocation: Invocation,
    *,
    key_file: Path | None,
    unencrypted: bool,
    recovery_key: bool,
    like: str | None,
    like_unlock: UnlockOptions,
) -> None:
    """Make a repository in a new or empty directory.

    It is sealed with the passphrase, or the key file, that opens repositories in every command (offhost --help), or
    with a new key file. `offhost keys` adds further ways in, and takes them away.
    """
    if key_file or unencrypted:
        if invocation.unlock.given or (key_file and unencrypted):
            raise UsageError("a repository is made with one of passphrase, key file and --unencrypted", hint="choose")
        invocation.unlock = UnlockOptions(key_file=key_file, unencrypted=unencrypted)
    if recovery_key and invocation.unlock.unencrypted:
        raise UsageError("an unencrypted repository needs no recovery key", hint="leave out one of the two")
    cut_secret = unlocked(invocation.for_role("LIKE", like, like_unlock)).config.cut_secret if like else None
    if key_file:
        _make_key_file(key_file)
    try:
        root = _make(invocation, cut_secret)
    except BaseException:
        if key_file:
            key_file.unlink()  # made a moment ago, and nothing was sealed with it
        raise
    say(f"Made a repository in {root}.")
    if recovery_key:
        print_recovery_key(*located(invocation), label="")
    elif not invocation.unlock.unencrypted:
        note("A recovery key, to be written down, is made by `offhost keys add --recovery`.")


def _make_key_file(path: Path) -> None:
    from offhost.repository.keys.credentials import KeyFile

    KeyFile.new().save(path)


def _make(invocation: Invocation, cut_secret: bytes | None) -> Path:
    from offhost.repository.keys.credentials import Unencrypted
    from offhost.repository.repository import create

    root, unlock = located(invocation)
    if isinstance(unlock, Unencrypted):
        note("This repository will not be encrypted: whoever gets at its files can read them, and forge them unseen.")
    else:
        note(f"Keep the {unlock.name}: without it, or another way in, nothing in the repository can ever be read.")
        note("A copy of it that lies only on the machines that are backed up, or in the repository, is lost with them.")
    create(root, unlock, cut_secret=cut_secret)
    return root
