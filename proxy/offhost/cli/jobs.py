"""`offhost jobs …`: what is to be done, and doing it now.

`jobs run` has the running daemon do it, and does it itself where none runs.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import click

from offhost.cli.daemon_client import DaemonClient
from offhost.cli.foreground import foreground
from offhost.cli.invocation import Invocation, json_option
from offhost.cli.output import note, say, say_json, table
from offhost.cli.plans import print_plan
from offhost.cli.progress import shown
from offhost.cli.runs import print_run
from offhost.errors import Conflict, NotFound

if TYPE_CHECKING:
    from offhost.config import Configuration, Job
    from offhost.daemon.local import Catalog, Local, RunRow
    from offhost.ids import RunId
    from offhost.jobs.runner import JobPlan
    from offhost.jobs.spec import JobSpec

EXIT_OF = {"success": 0, "warning": 3, "failed": 1, "cancelled": 130}
"""The exit code of a run that ended in a state."""

_LOOK_AGAIN_S = 0.5


@click.group()
def jobs() -> None:
    """List, show, plan and run jobs."""


@jobs.command("list")
@json_option
@click.pass_obj
def list_jobs(invocation: Invocation) -> None:
    """Every job, with its last run and its next time."""
    from offhost.daemon.local import local

    configuration = invocation.configuration()
    with local(configuration) as here:
        described = [_described(job, here.catalog) for job in configuration.jobs]
    if invocation.json:
        say_json(described)
        return
    rows = [
        (job["job"], job["repository"], job["last"]["state"] if job["last"] else "never run", job["next"] or "by hand")
        for job in described
    ]
    table(("job", "repository", "last run", "next"), rows)


@jobs.command("show")
@click.argument("name")
@json_option
@click.pass_obj
def show_job(invocation: Invocation, name: str) -> None:
    """One job: what its file says, its last run, its next time."""
    from offhost.daemon.local import local

    configuration = invocation.configuration()
    with local(configuration) as here:
        described = _described(_job(configuration, name), here.catalog)
    if invocation.json:
        say_json(described)
        return
    last = described["last"]
    say(f"job: {described['job']}")
    say(f"backs up: {_meant(described)} into {described['repository']}")
    if described["kind"] == "image":
        say(f"mode: {described['mode']}{_checked(described)}")
        say(f"transports: {', '.join(described['transports'])}")
    if described["copy_to"]:
        say(f"copies to: {', '.join(described['copy_to'])}")
    say(f"retention: {described['retention']}")
    say(f"next: {described['next'] or 'when told to'}")
    say(f"last: {last['state']}, begun {last['started']}, run {last['id']}" if last else "last: never run")


@jobs.command("plan")
@click.argument("name")
@json_option
@click.pass_obj
def plan_job(invocation: Invocation, name: str) -> int:
    """Which VMs a job selects, and what it would do to each disk; touches nothing."""
    from offhost.daemon.compose import composed
    from offhost.daemon.local import open_state

    configuration = invocation.configuration()
    _job(configuration, name)

    async def planned() -> JobPlan:
        async with composed(configuration, open_state(configuration)) as proxy:
            return await proxy.runner.plan(proxy.jobs[name])

    plan = foreground(planned())
    if invocation.json:
        say_json(plan)
    else:
        print_plan(plan)
    if any(vm.problem for vm in plan.vms):
        return EXIT_OF["failed"]
    return EXIT_OF["warning" if plan.warnings or not plan.vms else "success"]


@jobs.command("run")
@click.argument("name")
@json_option
@click.pass_obj
def run_job(invocation: Invocation, name: str) -> int:
    """Run a job now and wait for its end. Ctrl-C cancels it, and waits until it has cleaned up.

    Exits with 0 on success, 3 with warnings, 1 when a VM failed, 130 when cancelled.
    """
    from offhost.daemon.local import open_state
    from offhost.daemon.specs import job_spec

    configuration = invocation.configuration()
    job = _job(configuration, name)
    daemon = open_state(configuration).daemon_address()
    if daemon is not None:
        run = foreground(_run_in(DaemonClient(daemon), configuration, name, quiet=invocation.json))
    else:
        run = foreground(run_here(configuration, job_spec(job), quiet=invocation.json))
    print_run(run, as_json=invocation.json)
    return EXIT_OF[run.state]


def _job(configuration: Configuration, name: str) -> Job:
    names = [job.job for job in configuration.jobs]
    if name not in names:
        raise NotFound(f"there is no job `{name}`", hint=f"there are: {', '.join(names) or 'none'}")
    return configuration.jobs[names.index(name)]


def _described(job: Job, catalog: Catalog) -> dict[str, Any]:
    from offhost.clock import SystemClock
    from offhost.daemon.specs import job_spec
    from offhost.jobs.schedule import next_time
    from offhost.retention import written_age

    spec = job_spec(job)
    following = next_time(spec.timing, SystemClock().now()) if spec.timing else None
    last = catalog.runs(limit=1, job=spec.name)
    return {
        "job": spec.name,
        "kind": spec.kind,
        "vcenter": spec.vcenter or None,
        "directory": str(spec.folder.path) if spec.folder else None,
        "repository": spec.repository,
        "mode": spec.mode,
        "full_every": written_age(spec.full_every) if spec.full_every else None,
        "audit": {"every": written_age(spec.audit.every), "read": spec.audit.read} if spec.mode != "full" else None,
        "transports": list(spec.transports),
        "copy_to": [target.repository for target in spec.copy_to],
        "retention": str(spec.retention),
        "next": following.isoformat() if following else None,
        "last": {"id": last[0].id, "state": last[0].state, "started": last[0].started} if last else None,
    }


def _checked(described: dict[str, Any]) -> str:
    """How often a job reads in full all the same, and audits change tracking, in words."""
    full = f", in full every {described['full_every']}" if described["full_every"] else ""
    audit = described["audit"]
    return f"{full}, change tracking audited every {audit['every']} ({audit['read']})" if audit else full


def _meant(described: dict[str, Any]) -> str:
    """What a job backs up, in words."""
    if described["directory"]:
        return f"the VM in {described['directory']}"
    return f"{'hosts' if described['kind'] == 'host' else 'VMs'} of {described['vcenter']}"


async def run_here(configuration: Configuration, job: JobSpec, *, quiet: bool) -> RunRow:
    """Be the proxy for one run: also clear up after dead runs, as a daemon's start would."""
    from offhost.daemon.compose import composed
    from offhost.daemon.local import open_state
    from offhost.events import DiskProgress, Event

    async with composed(configuration, open_state(configuration)) as proxy:
        await proxy.close_records()
        await proxy.remove_leftovers()
        run = await proxy.runner.begin(job, "cli")
        with shown(quiet=quiet) as progress:

            def show(event: Event) -> None:
                if isinstance(event, DiskProgress):
                    progress(f"{event.vm}: {event.disk}", event.done_bytes, event.total_bytes)

            proxy.events.subscribe(show)
            try:
                return await proxy.runner.execute(run)
            except asyncio.CancelledError:
                return proxy.catalog.run(run.id)


async def _run_in(daemon: DaemonClient, configuration: Configuration, name: str, *, quiet: bool) -> RunRow:
    """Have the daemon run the job, and wait for the end. Cancelled once, have it cancel the run; twice, leave it."""
    from offhost.daemon.local import local

    run_id = daemon.run(name)
    if not quiet:
        note(f"run {run_id} of {name} has begun, in the daemon at {daemon.url}")
    with local(configuration) as here:
        try:
            return await _ended(here, run_id)
        except asyncio.CancelledError:
            note("cancelling the run, and waiting until it has cleaned up")
            with contextlib.suppress(Conflict, NotFound):  # it has ended this moment
                daemon.cancel(run_id)
            return await _ended(here, run_id)


async def _ended(here: Local, run_id: RunId) -> RunRow:
    """The run's record once it is closed: by the daemon, or here, should the daemon have died."""
    from offhost.clock import SystemClock
    from offhost.daemon.local import end_interrupted

    while (run := here.catalog.run(run_id)).state == "running":
        if here.state.is_dead(run_id):
            end_interrupted(here.state, here.catalog, SystemClock())
        else:
            await asyncio.sleep(_LOOK_AGAIN_S)
    return run
