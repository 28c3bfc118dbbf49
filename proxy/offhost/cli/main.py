"""`offhost …`: finds the command, runs it, turns what it ends in into words and an exit code.

Owns: the list of commands, the global options, and exit codes: 0 done, 3 done with warnings, 1 failed, 2 asked
wrongly, 130 interrupted. Does not own: the commands, each imported only when it is the one called, since a backup
proxy's libraries take longer to load than most commands take to run.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import click

from offhost import __version__
from offhost.cli.invocation import DEFAULT_CONFIG, Invocation
from offhost.cli.output import note, print_error, say_json
from offhost.cli.overheard import tell_warnings
from offhost.cli.unlocking import UnlockOptions, unlock_options
from offhost.errors import OffhostError, UsageError

COMMANDS = {
    "acceptance": ("offhost.cli.acceptance:acceptance", "Show on a vCenter, with a VM of its own, that offhost works."),
    "audit": ("offhost.cli.audit:audit", "Show what was changed in vSphere, for whom, and what came of it."),
    "backup": ("offhost.cli.backup:backup", "Back up a disk image, a VM, or a host's configuration, without a job."),
    "check": ("offhost.cli.service:check", "Check the configuration files."),
    "copy": ("offhost.cli.copy:copy", "Copy restore points to another repository."),
    "doctor": ("offhost.cli.doctor:doctor", "Explain what keeps the jobs from working, and the mend."),
    "keys": ("offhost.cli.keys:keys", "List, add and remove what opens a repository."),
    "jobs": ("offhost.cli.jobs:jobs", "List, show, plan and run jobs."),
    "points": ("offhost.cli.points:points", "List restore points, keep them, give them up."),
    "repo": ("offhost.cli.repo:repo", "Create, measure and verify a repository."),
    "restore": ("offhost.cli.restore:restore", "Restore a disk, a VM, or a file kept with a restore point."),
    "retention": ("offhost.cli.retention:retention", "Say which restore points expire and why, and let them."),
    "runs": ("offhost.cli.runs:runs", "List and show the executions of jobs."),
    "serve": ("offhost.cli.service:serve", "Run the daemon in the foreground."),
}
"""Each command's home, `module:attribute`, and its line in `offhost --help`, which imports none of them."""

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of the alphabet."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return the command, None when there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands' section of the help."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in self.list_commands(ctx)])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="offhost")
@click.option(
    "-c",
    "--config",
    metavar="FILE",
    type=click.Path(path_type=Path),
    default=DEFAULT_CONFIG,
    show_default=True,
    envvar="OFFHOST_CONFIG",
    help="proxy.yaml; jobs.d lies beside it.",
)
@click.option("--repo", metavar="DIR_OR_NAME", help="A repository, by its directory or its name in proxy.yaml.")
@unlock_options()
@click.pass_obj
def offhost(invocation: Invocation, config: Path, repo: str | None, unlock: UnlockOptions) -> None:
    """Back up VMware VMs from snapshots read on this proxy, and give them back."""
    invocation.config, invocation.repo, invocation.unlock = config, repo, unlock


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. A command returns its own, or None for 0."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # of numpy's start, a third is threads that nothing here uses
    invocation = Invocation()
    tell_warnings()
    try:
        result = offhost.main(arguments, prog_name="offhost", standalone_mode=False, obj=invocation)
    except BaseException as raised:  # noqa: BLE001 - the outermost frame: everything ends here, in words
        return _ended_in(_single(raised), invocation)
    return result if isinstance(result, int) else 0


def _ended_in(raised: BaseException, invocation: Invocation) -> int:
    """Say what a command ended in, and with which exit code."""
    import asyncio

    match raised:
        case OffhostError():
            print_error(raised, as_json=invocation.json)
            _print_traceback(raised)
            return raised.exit_code
        case click.exceptions.NoArgsIsHelpError():
            raised.show()
            return EXIT_USAGE
        case click.ClickException():
            if invocation.json:
                say_json({"error": {"code": "usage", "message": raised.format_message(), "hint": None}})
            raised.show()
            return EXIT_USAGE
        case KeyboardInterrupt() | asyncio.CancelledError() | click.Abort():
            note("interrupted")
            return EXIT_INTERRUPTED
        case SystemExit():
            return raised.code if isinstance(raised.code, int) else EXIT_FAILED
        case BrokenPipeError():
            # Whoever read our output has left; what is still buffered must not fail a second time at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return EXIT_FAILED
        case ModuleNotFoundError():
            lacking = f"this command needs the Python package {raised.name}, which is not installed"
            return _ended_in(UsageError(lacking, hint="pip install 'offhost[proxy]'"), invocation)
        case _:
            return _unexpected(raised, invocation)


def _unexpected(raised: BaseException, invocation: Invocation) -> int:
    """A fault of offhost itself: say so shortly, and how to see more."""
    said = f"{type(raised).__name__}: {raised}"
    if invocation.json:
        say_json({"error": {"code": "internal", "message": said, "hint": None}})
    note(f"error: offhost failed unexpectedly: {said}")
    note("hint: run it again with OFFHOST_DEBUG=1 to see where, and report it with that")
    _print_traceback(raised)
    return EXIT_FAILED


def _print_traceback(raised: BaseException) -> None:
    if os.environ.get("OFFHOST_DEBUG"):
        traceback.print_exception(raised)


def _single(raised: BaseException) -> BaseException:
    """What a task group wrapped: its first error; the others are consequences of it or equal to it."""
    while isinstance(raised, BaseExceptionGroup):
        raised = raised.exceptions[0]
    return raised
