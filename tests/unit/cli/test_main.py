"""What a command ends in: words on standard error, JSON where asked for, and the right exit code."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable

import click
import pytest

from offhost.cli import main as frame
from offhost.cli.invocation import Invocation, json_option
from offhost.cli.main import main
from offhost.errors import ConfigError, ConfigErrors, Conflict, NoSpace
from offhost.printable import size

Says = Callable[..., tuple[int, str, str]]


def raising(error: BaseException) -> click.Command:
    @click.command()
    @json_option
    @click.pass_obj
    def command(invocation: Invocation) -> None:
        raise error

    return command


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Says:
    """Runs a command that raises an error, or returns a value; returns exit code, standard output and error."""

    def run(ending: BaseException | int | None, *options: str) -> tuple[int, str, str]:
        command = raising(ending) if isinstance(ending, BaseException) else click.Command("x", callback=lambda: ending)
        monkeypatch.setattr(frame.LazyGroup, "get_command", lambda *_: command)
        code = main(["x", *options])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def test_an_error_is_told_with_its_hint_and_exit_code(ends: Says) -> None:
    assert ends(Conflict("it is there", hint="take another")) == (2, "", "error: it is there\nhint: take another\n")
    assert ends(NoSpace("the disk is full")) == (1, "", "error: the disk is full\n")


def test_an_error_is_json_where_json_was_asked_for(ends: Says) -> None:
    code, out, err = ends(Conflict("it is there", hint="take another"), "--json")
    assert (code, err) == (2, "error: it is there\nhint: take another\n")
    assert json.loads(out) == {"error": {"code": "conflict", "message": "it is there", "hint": "take another"}}


def test_every_mistake_of_a_configuration_has_a_line_of_its_own(ends: Says) -> None:
    mistakes = [ConfigError("a: wrong", file="f", line=1, column=2, hint="mend a"), ConfigError("b: wrong", file="f")]
    code, _, err = ends(ConfigErrors(mistakes))
    assert (code, err) == (2, "error: f:1:2: a: wrong\nhint: mend a\nerror: f: b: wrong\n")


@pytest.mark.parametrize("raised", [KeyboardInterrupt(), asyncio.CancelledError(), click.Abort()])
def test_what_is_interrupted_ends_with_130(ends: Says, raised: BaseException) -> None:
    code, out, err = ends(raised)
    assert (code, out, err.strip()) == (130, "", "interrupted")


def test_an_error_in_a_task_group_is_told_like_any_other(ends: Says) -> None:
    assert ends(ExceptionGroup("tasks", [ExceptionGroup("more", [Conflict("it is there")])]))[0] == 2


def test_a_package_that_an_extra_brings_is_told_with_its_extra(ends: Says) -> None:
    code, _, err = ends(ModuleNotFoundError("No module named 'pyVmomi'", name="pyVmomi"))
    assert code == 2
    assert "pyVmomi" in err
    assert "offhost[proxy]" in err


def test_a_fault_of_our_own_is_short_and_says_how_to_see_more(ends: Says) -> None:
    code, out, err = ends(ZeroDivisionError("oops"))
    assert (code, out) == (1, "")
    assert err.splitlines()[0] == "error: offhost failed unexpectedly: ZeroDivisionError: oops"
    assert "OFFHOST_DEBUG=1" in err
    assert "Traceback" not in err


def test_the_traceback_is_there_for_whoever_asks(ends: Says, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFHOST_DEBUG", "1")
    assert "Traceback" in ends(ZeroDivisionError("oops"))[2]


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (3, 3)])
def test_a_command_s_own_exit_code_is_kept(ends: Says, returned: int | None, code: int) -> None:
    assert ends(returned)[0] == code


@pytest.mark.parametrize("arguments", [["no-such-command"], ["jobs", "run"], ["--no-such-option"], []])
def test_asking_wrongly_ends_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "Usage: offhost" in capsys.readouterr().err


def test_every_command_that_help_lists_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    listed = capsys.readouterr().out
    for name in frame.COMMANDS:
        assert f"  {name}" in listed
        assert main([name, "--help"]) == 0


def test_help_loads_none_of_the_libraries_of_a_proxy() -> None:
    program = "import sys; from offhost.cli.main import main; main(['--help']); print(sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    for library in ("aiohttp", "sqlalchemy", "pyVmomi", "pydantic", "numpy", "apscheduler", "rich"):
        assert f"'{library}'" not in loaded


@pytest.mark.parametrize(
    ("size_bytes", "written"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (2**30, "1.0 GiB"), (5 * 2**40, "5.0 TiB")],
)
def test_sizes_are_written_in_the_units_of_storage(size_bytes: int, written: str) -> None:
    assert size(size_bytes) == written
