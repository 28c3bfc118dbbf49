"""`offhost repo …`: create, measure, verify and collect a repository."""

from __future__ import annotations

import click

from offhost.cli.gc import gc
from offhost.cli.making import init
from offhost.cli.stats import stats
from offhost.cli.verifying import rebuild, verify


@click.group()
def repo() -> None:
    """Create, measure, verify and collect a repository."""


repo.add_command(init)
repo.add_command(verify)
repo.add_command(stats)
repo.add_command(gc)
repo.add_command(rebuild)
