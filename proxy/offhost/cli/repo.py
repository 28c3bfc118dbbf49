"""`offhost repo …`: create, measure and verify a repository."""

from __future__ import annotations

import click

from offhost.cli.making import init
from offhost.cli.stats import stats
from offhost.cli.verifying import verify


@click.group()
def repo() -> None:
    """Create, measure and verify a repository."""


repo.add_command(init)
repo.add_command(verify)
repo.add_command(stats)
