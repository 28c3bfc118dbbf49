"""What one call of `offhost` was told before the command's own words: the global options.

Owns: the options every command shares and how a command gets at them. Does not own: opening what they name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from offhost.cli.unlocking import UnlockOptions, environment_unlocks
from offhost.errors import UsageError

if TYPE_CHECKING:
    from offhost.config import Configuration

DEFAULT_CONFIG = Path("/etc/offhost/proxy.yaml")

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(slots=True)
class Invocation:
    """The global options of one call. Commands receive it with `@click.pass_obj`."""

    config: Path = DEFAULT_CONFIG
    repo: str | None = None
    """What `--repo` names: a directory, or a repository of proxy.yaml."""
    unlock: UnlockOptions = field(default_factory=UnlockOptions)
    """What the options say that opens it."""
    role: str | None = None
    """Which of a command's repositories this is for, `FROM` or `TO`: its own variables go before the common ones."""
    json: bool = False
    """Whether results and errors are for programs."""

    def for_role(self, role: str, repo: str, unlock: UnlockOptions) -> Invocation:
        """The same for one of several repositories: what is said for it alone goes before what is said for all."""
        if not unlock.given and not environment_unlocks(role):
            unlock = self.unlock
        return replace(self, repo=repo, role=role, unlock=unlock)

    def configuration(self) -> Configuration:
        """Read proxy.yaml and jobs.d.

        Raises: ConfigErrors with every mistake in them.
        """
        from offhost.config import load

        return load(self.config)


def json_option(command: F) -> F:
    """Give a command `--json`: its result, and an error if it ends in one, are then JSON on standard output."""

    def remember(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
        if value:
            context.ensure_object(Invocation).json = True

    option = click.option(
        "--json",
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=remember,
        help="Print the result as JSON.",
    )
    return option(command)


def only(known: Mapping[str, object], asked: str | None, what: str, option: str) -> str:
    """The name that was asked for, or the only one there is. Raises: UsageError, naming the choice."""
    names = ", ".join(known) or "none"
    if asked is None and len(known) == 1:
        return next(iter(known))
    if asked is None:
        raise UsageError(f"which {what}? proxy.yaml names {names}", hint=f"choose one with {option}")
    if asked not in known:
        raise UsageError(f"proxy.yaml names no {what} `{asked}`", hint=f"it names {names}")
    return asked
