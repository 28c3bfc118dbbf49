"""What the command line prints: results on standard output, everything else on standard error.

Owns: the shape of lines, JSON and errors. Does not own: what is in them.
"""

import dataclasses
import json
import sys
from collections.abc import Sequence
from typing import Any

import click

from offhost.errors import ConfigErrors, OffhostError


def say(line: str = "") -> None:
    """A line of the result, for people."""
    click.echo(line)


def note(line: str) -> None:
    """A line beside the result: progress, a warning. On standard error, so that results stay clean in a pipe."""
    click.echo(line, err=True)


def say_json(value: object) -> None:
    """The result, for programs. Dataclasses become objects."""
    click.echo(json.dumps(value, indent=2, default=_plain))


def print_error(error: OffhostError, *, as_json: bool) -> None:
    """Say what, where, and what to do about it."""
    if as_json:
        say_json({"error": problem(error)})
    for mistake in error.mistakes if isinstance(error, ConfigErrors) else (error,):
        note(f"{click.style('error:', fg='red')} {mistake}")
        if mistake.hint:
            note(f"{click.style('hint:', fg='yellow')} {mistake.hint}")


def problem(error: OffhostError) -> dict[str, Any]:
    """An error for programs: its stable code, what it says, and the hint."""
    described: dict[str, Any] = {"code": error.code, "message": str(error), "hint": error.hint}
    if isinstance(error, ConfigErrors):
        described["mistakes"] = [problem(mistake) for mistake in error.mistakes]
    return described


def table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Columns for people: a table on a terminal, tab-separated lines without a header in a pipe."""
    if not sys.stdout.isatty():
        for row in rows:
            say("\t".join(row))
        return
    from rich.console import Console
    from rich.table import Table

    drawn = Table(*header, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        drawn.add_row(*row)
    Console(highlight=False).print(drawn)


def size(size_bytes: int) -> str:
    """A size for people, in the units storage is measured in: 1536 is `1.5 KiB`."""
    amount = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return str(value)
