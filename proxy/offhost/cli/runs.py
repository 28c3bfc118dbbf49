"""`offhost runs …`: what was done, from the catalog, daemon or not."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from offhost.cli.invocation import Invocation, json_option
from offhost.cli.output import consistent, say, say_json, table
from offhost.printable import size

if TYPE_CHECKING:
    from offhost.daemon.local import RunRow, VmRow


@click.group()
def runs() -> None:
    """List and show the executions of jobs."""


@runs.command("list")
@click.option("--job", metavar="NAME", help="Only this job's.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="How many.")
@json_option
@click.pass_obj
def list_runs(invocation: Invocation, job: str | None, limit: int) -> None:
    """The latest runs, the newest first."""
    from offhost.daemon.local import local

    with local(invocation.configuration()) as here:
        rows = here.catalog.runs(limit=limit, job=job)
    if invocation.json:
        long = ("vms", "expired")
        say_json([{key: value for key, value in asdict(run).items() if key not in long} for run in rows])
        return
    table(
        ("run", "job", "state", "started", "ended"),
        [(run.id[:12], run.job, run.state, run.started, run.ended or "") for run in rows],
    )


@runs.command("show")
@click.argument("run")
@json_option
@click.pass_obj
def show_run(invocation: Invocation, run: str) -> None:
    """One run, by its id or the beginning of one: its VMs, and what was done to each disk."""
    from offhost.daemon.local import local

    with local(invocation.configuration()) as here:
        print_run(here.catalog.run(run), as_json=invocation.json)


def print_run(run: RunRow, *, as_json: bool) -> None:
    """A run with its VMs and their disks."""
    if as_json:
        say_json(run)
        return
    say(f"run {run.id} of {run.job}: {run.state}, {run.started} to {run.ended or 'now'}")
    for warning in run.warnings:
        say(f"warning: {warning}")
    if run.problem:
        say(f"error: {run.problem.message}")
        if run.problem.hint:
            say(f"hint: {run.problem.hint}")
    for vm in run.vms:
        _print_vm(vm)
    for point in run.expired:
        say(f"forgotten: {point.point[:12]} of {point.vm}, {point.time}: {point.reason}")


def _print_vm(vm: VmRow) -> None:
    say(f"{vm.vm}: " + (f"restore point {vm.point}, {consistent(vm.consistency)}" if vm.point else "no restore point"))
    for disk in vm.disks:
        say(
            f"  {disk.label} ({size(disk.capacity_bytes)}), {disk.mode} over {disk.transport}: "
            f"{size(disk.read_bytes)} read, {size(disk.new_bytes)} new, {size(disk.stored_bytes)} stored, "
            f"{size(disk.host_bytes)} through an ESX host"
        )
        if disk.reason:
            say(f"    read in full: {disk.reason}")
        if disk.audited_bytes is not None:
            found = f"{size(disk.unreported_bytes)} had changed" if disk.unreported_bytes else "all as it was"
            say(f"    audit of change tracking: {size(disk.audited_bytes)} said to be unchanged: {found}")
    for copies in vm.copies:
        read, stored = size(copies.read_bytes), size(copies.stored_bytes)
        say(f"  {len(copies.points)} restore points copied to {copies.repository}: {read} read, {stored} stored")
    for warning in vm.warnings:
        say(f"  warning: {warning}")
    if vm.problem:
        say(f"  error: {vm.problem.message}")
        if vm.problem.hint:
            say(f"  hint: {vm.problem.hint}")
