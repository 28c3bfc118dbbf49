"""What the command line prints: results on standard output, everything else on standard error.

Owns: the shape of lines, JSON and errors, and that nothing in them steers the terminal. Does not own: what is in them.
"""

import dataclasses
import json
import sys
from collections.abc import Sequence
from typing import Any

import click

from offhost.errors import ConfigErrors, OffhostError
from offhost.printable import printable


def say(line: str = "") -> None:
    """A line of the result, for people."""
    click.echo(printable(line, keep="\t"))


def say_marked(mark: str, colour: str, line: str) -> None:
    """A line of the result with a mark before it, in that colour on a terminal."""
    click.echo(f"{click.style(mark, fg=colour)} {printable(line, keep=chr(9))}")


def note(line: str) -> None:
    """A line beside the result: progress, a warning. On standard error, so that results stay clean in a pipe."""
    click.echo(printable(line, keep="\t"), err=True)


def say_json(value: object) -> None:
    """The result, for programs. Dataclasses become objects."""
    click.echo(json.dumps(value, indent=2, default=_plain))


def print_error(error: OffhostError, *, as_json: bool) -> None:
    """Say what, where, and what to do about it."""
    if as_json:
        say_json({"error": problem(error)})
    for mistake in error.mistakes if isinstance(error, ConfigErrors) else (error,):
        _note_marked("error:", "red", str(mistake))
        if mistake.hint:
            _note_marked("hint:", "yellow", mistake.hint)


def _note_marked(mark: str, colour: str, line: str) -> None:
    click.echo(f"{click.style(mark, fg=colour)} {printable(line)}", err=True)


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
            say("\t".join(map(printable, row)))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(*header, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        drawn.add_row(*(Text(printable(cell)) for cell in row))
    Console(highlight=False).print(drawn)


def consistent(level: str | None) -> str:
    """A consistency level in words."""
    return "torn: not consistent" if level == "torn" else f"{level}-consistent"


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return str(value)
