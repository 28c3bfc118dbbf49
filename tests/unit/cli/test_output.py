"""What is printed reads as it is named, and does nothing to the terminal."""

import sys

import pytest

from offhost.cli.output import note, print_error, say, table
from offhost.cli.progress import shown
from offhost.errors import Conflict

HOSTILE = "web\x1b[2J\x9b31m\r\n\u202e\udc80[red]"
ESCAPED = r"web\x1b[2J\x9b31m\r\n\u202e\udc80[red]"


def test_what_is_not_printable_is_written_out(capsys: pytest.CaptureFixture[str]) -> None:
    say(HOSTILE)
    note(HOSTILE)
    print_error(Conflict(HOSTILE, hint=HOSTILE), as_json=False)
    said = capsys.readouterr()
    assert said.out == f"{ESCAPED}\n"
    assert said.err == f"{ESCAPED}\nerror: {ESCAPED}\nhint: {ESCAPED}\n"


def test_a_name_stays_within_its_cell_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    table(("vm", "state"), [("a\tb\nc", "success")])
    assert capsys.readouterr().out == "a\\tb\\nc\tsuccess\n"


def test_a_name_on_a_terminal_is_no_markup(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    table(("vm",), [("[bold]web[/bold]",), ("[/]",), (HOSTILE,)])
    lines = [line.rstrip() for line in capsys.readouterr().out.split("\n")]
    assert lines[1:4] == ["[bold]web[/bold]", "[/]", ESCAPED]


def test_progress_shows_a_name_that_looks_like_markup(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with shown() as progress:
        progress("[/]web\x1b[2J", 1, 2)
    assert r"[/]web\x1b[2J" in capsys.readouterr().err
