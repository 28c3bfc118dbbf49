"""`offhost doctor`: what is wrong, and the mend; without a daemon, and changing nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from offhost.cli.foreground import foreground
from offhost.cli.invocation import Invocation, json_option
from offhost.cli.output import say, say_json, say_marked

if TYPE_CHECKING:
    from offhost.daemon.doctor import Finding

_WARNED = 3
_COLOURS = {"ok": "green", "warning": "yellow", "error": "red"}


@click.command()
@json_option
@click.pass_obj
def doctor(invocation: Invocation) -> int:
    """Look at everything the jobs need: vCenters and the account's privileges, datastores, repositories.

    Nothing is changed. Ends with 0 when all is well, 3 with warnings, 1 when a job cannot work.
    """
    from offhost.daemon.doctor import examined

    configuration = invocation.configuration()

    async def look() -> list[Finding]:
        found: list[Finding] = []
        async for finding in examined(configuration):
            if not invocation.json:
                _print(finding, found[-1].subject if found else None)
            found.append(finding)
        return found

    findings = foreground(look())
    levels = [finding.level for finding in findings]
    if invocation.json:
        say_json(findings)
    else:
        say(f"{len(levels)} checks: {levels.count('error')} failed, {levels.count('warning')} with a warning")
    return 1 if "error" in levels else _WARNED if "warning" in levels else 0


def _print(finding: Finding, subject_before: str | None) -> None:
    if finding.subject != subject_before:
        say(finding.subject)
    say_marked(f"  {finding.level:7}", _COLOURS[finding.level], f"{finding.check}: {finding.said}")
    if finding.hint:
        say_marked("          hint:", "yellow", finding.hint)
