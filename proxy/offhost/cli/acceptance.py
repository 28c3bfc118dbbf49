"""`offhost acceptance`: whether offhost works with a vCenter, shown with a VM of its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from offhost.cli.foreground import foreground
from offhost.cli.invocation import Invocation, json_option, only
from offhost.cli.output import note, say, say_json
from offhost.cli.progress import shown

if TYPE_CHECKING:
    from offhost.acceptance.verdict import Step, Verdict

_TITLE = """# What was seen on which vSphere

Each section is what `offhost acceptance` saw: the whole life of a throw-away VM, from its making to its removal.
"""


@click.command()
@click.option("--datastore", metavar="NAME", required=True, help="Where the VMs go; 200 MiB are enough.")
@click.option("--vcenter", metavar="NAME", help="Which vCenter of proxy.yaml, where it names several.")
@click.option("--folder", metavar="PATH", help="Their folder, as /DATACENTER/vm/FOLDER.")
@click.option("--report", type=click.Path(path_type=Path), help="A file to which what was seen is added.")
@json_option
@click.pass_obj
def acceptance(
    invocation: Invocation, *, datastore: str, vcenter: str | None, folder: str | None, report: Path | None
) -> int:
    """Live through the whole life of a throw-away VM on a vCenter, and say what was seen.

    A VM of 64 MiB is made, backed up, changed by its guest, backed up by its changes, restored as a second VM, and
    both are removed. Nothing else is touched. Exit code 1 when something did not work.
    """
    from offhost.clock import SystemClock
    from offhost.daemon.local import open_state
    from offhost.daemon.resources import resources

    configuration = invocation.configuration()
    center = only(configuration.vcenters, vcenter, "vCenter", "--vcenter")

    async def lived() -> Verdict:
        state = open_state(configuration)
        async with resources(configuration, state, SystemClock()) as opened:
            with shown(quiet=True) as progress:
                life = await opened.acceptance(center, progress, _quiet if invocation.json else _tell)
            with state.claim_run(life.owner.run):  # no daemon takes its snapshots for those of a dead run
                return await life.run(datastore, folder)

    verdict = foreground(lived())
    if report is not None:
        text = report.read_text() if report.exists() else _TITLE
        report.write_text(f"{text}\n{verdict.markdown()}")
    _print(verdict, as_json=invocation.json)
    return 0 if verdict.accepted else 1


def _quiet(_: Step) -> None:
    pass


def _tell(step: Step) -> None:
    say(f"{'FAILED' if step.failed else 'ok':6} {step.what} ({step.took_s:.1f} s)")
    for seen in step.seen:
        say(f"         {seen}")


def _print(verdict: Verdict, *, as_json: bool) -> None:
    if as_json:
        say_json(
            {
                "endpoint": verdict.endpoint,
                "accepted": verdict.accepted,
                "steps": verdict.steps,
                "left": verdict.left,
                "problem": str(verdict.problem) if verdict.problem else None,
            }
        )
        return
    say(f"{verdict.endpoint}: {'accepted' if verdict.accepted else 'NOT accepted'}")
    if verdict.problem is not None and verdict.problem.hint:
        note(f"hint: {verdict.problem.hint}")
