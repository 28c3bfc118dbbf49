"""`offhost audit`: what this installation changed in vSphere, daemon or not."""

from __future__ import annotations

from typing import Any

import click

from offhost.cli.invocation import Invocation, json_option
from offhost.cli.output import say, say_json


@click.command()
@click.option("--run", metavar="ID", help="Only what this run did; the beginning of its id is enough.")
@click.option("--vm", "target", metavar="NAME", help="Only to this VM or host, or to this path on a datastore.")
@click.option("--job", metavar="NAME", help="Only what this job did.")
@click.option(
    "--limit", type=click.IntRange(1, 1_000_000), default=200, show_default=True, help="How many, the latest."
)
@json_option
@click.pass_obj
def audit(invocation: Invocation, *, run: str | None, target: str | None, job: str | None, limit: int) -> None:
    """Every change made in vSphere: snapshots, switches of change tracking, power, files, VMs; the oldest first.

    The record lies in the state directory, in audit.log, a line of JSON when a change was asked for and one when its
    outcome was known. An outcome `asked` means that the process ended before that, `unknown` that nobody could tell.
    """
    from offhost.daemon.auditing import Wanted, changes
    from offhost.daemon.local import open_state

    state = open_state(invocation.configuration())
    found = changes(state.audit, Wanted(run, target, job), limit=limit)
    if invocation.json:
        say_json(found)
        return
    for change in found:
        _print(change)


def _print(change: dict[str, Any]) -> None:
    job = f" of {change['job']}" if change.get("job") else ""
    run = f", run {str(change['run'])[:12]}" if change.get("run") else ""
    say(
        f"{change.get('time')}  {change.get('outcome')!s:7}  {change.get('what')}  "
        f"({change.get('method')} {change.get('object')}; {change.get('purpose') or 'offhost'}{job}{run})"
    )
    if change.get("problem"):
        say(f"    {change['problem']}")
