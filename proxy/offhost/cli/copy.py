"""`offhost copy`: restore points to another repository."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import click

from offhost.cli.invocation import Invocation, json_option
from offhost.cli.output import note, say, say_json
from offhost.cli.progress import shown
from offhost.cli.repository import described, interruptible, opened
from offhost.cli.unlocking import UnlockOptions, unlock_options
from offhost.errors import UsageError
from offhost.printable import size

if TYPE_CHECKING:
    from offhost.backup.report import PointCopy
    from offhost.repository.chunks.packer import WriteCheck

EXIT_FAILED = 1


@click.command()
@click.option("--from", "source", metavar="REPO", required=True, help="Where the points are: a directory or a name.")
@click.option("--to", "destination", metavar="REPO", required=True, help="Where they are copied to.")
@click.option("--vm", "vms", metavar="VM", multiple=True, help="Only this VM's, by name or identity; several at will.")
@click.option(
    "--point",
    "points",
    metavar="POINT",
    multiple=True,
    help="Just this point (an id, the beginning of one, VM@latest), even if its copy was forgotten; several at will.",
)
@unlock_options("from_", "the source's")
@unlock_options("to_", "the destination's")
@click.option(
    "--write-check",
    type=click.Choice(["full", "sample", "off"]),
    help="How many chunks are opened again and compared before their pack is stored: as proxy.yaml says, else full.",
)
@click.option(
    "--compression", type=click.Choice(["lz4", "zstd", "none"]), help="As proxy.yaml says of the destination, else lz4."
)
@click.option("--dry-run", is_flag=True, help="Show what would be copied.")
@json_option
@click.pass_obj
def copy(
    invocation: Invocation,
    *,
    source: str,
    destination: str,
    vms: tuple[str, ...],
    points: tuple[str, ...],
    from_unlock: UnlockOptions,
    to_unlock: UnlockOptions,
    write_check: WriteCheck | None,
    compression: Literal["lz4", "zstd", "none"] | None,
    dry_run: bool,
) -> int:
    """Copy restore points from one repository to another, whose keys may differ.

    Only what changed since the last copy is read, only what the other does not have is stored, and all of it is read
    back and compared before a copy counts. A copy that was interrupted goes on where it was. What was copied once and
    forgotten there is not copied again, unless --point names it.
    """
    from offhost.backup.destination import Destination
    from offhost.backup.replication import Replication
    from offhost.chunking.compress import Codec, Compression
    from offhost.chunking.workers import SpanWorkers

    if vms and points:
        raise UsageError("--vm and --point do not go together", hint="name VMs, or points of any VM")
    to = invocation.for_role("TO", destination, to_unlock)
    settings = described(to)
    compression = compression or (settings.compression if settings else "lz4")
    write_check = write_check or (settings.write_check if settings else "full")
    codec = {"lz4": Codec.LZ4, "zstd": Codec.ZSTD, "none": Codec.RAW}[compression]
    with (
        interruptible() as stop,
        opened(invocation.for_role("FROM", source, from_unlock)) as here,
        opened(to) as there,
        SpanWorkers() as workers,
        shown(quiet=invocation.json or dry_run) as progress,
    ):
        replication = Replication(here, Destination(there, workers, Compression(codec), write_check), progress, stop)
        named = dict.fromkeys(points)
        wanted, damaged = ([here.points.find(text) for text in named], []) if named else replication.wanted(vms)
        for error in damaged:
            note(f"warning: {error}")
        told = _quiet if invocation.json else _print
        done = replication.planned(wanted, told) if dry_run else replication.run(wanted, told)
    if invocation.json:
        say_json(done)
    else:
        say(_summary(done))
    return EXIT_FAILED if damaged or any(copied.state in ("failed", "left") for copied in done) else 0


def _quiet(_: PointCopy) -> None:
    """Says nothing: the result is printed as a whole."""


def _print(copied: PointCopy) -> None:
    what = f"{copied.vm}, {copied.time}: {copied.point[:12]}"
    match copied.state:
        case "planned":
            say(f"{what} would be copied")
        case "there":
            say(f"{what} is there already, as {str(copied.copy)[:12]}")
        case "left":
            say(f"{what} was not tried")
        case "copied":
            read, new, stored = map(size, (copied.read_bytes, copied.new_bytes, copied.stored_bytes))
            say(f"{what} copied as {str(copied.copy)[:12]}: {read} read, {new} new, {stored} stored")
        case "failed" if copied.problem:
            say(f"{what} failed: {copied.problem.message}")
            if copied.problem.hint:
                note(f"hint: {copied.problem.hint}")
    for line in copied.notes:
        say(f"  {line}")


def _summary(done: Sequence[PointCopy]) -> str:
    counts = Counter[str](copied.state for copied in done)
    words = {"planned": "to copy", "there": "there already", "left": "not tried"}
    said = [f"{count} {words.get(state, state)}" for state, count in counts.items()]
    return f"Restore points: {', '.join(said)}" if said else "Nothing to copy: every restore point is there."
