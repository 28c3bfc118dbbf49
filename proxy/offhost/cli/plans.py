"""How a job's plan reads: VM by VM, disk by disk, what would happen and why, and what is left out."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from offhost.cli.output import note, say
from offhost.printable import size

if TYPE_CHECKING:
    from offhost.backup.report import DiskPlan, VmPlan
    from offhost.jobs.runner import JobPlan


def print_plan(plan: JobPlan) -> None:
    """The plan for people; its warnings beside it."""
    names = Counter(vm.vm for vm in plan.vms)
    for vm in plan.vms:
        say(vm.vm if names[vm.vm] == 1 else f"{vm.vm} ({vm.vm_id})")
        _print_vm(vm)
    if plan.left_out:
        say("left out:")
    for out in plan.left_out:
        say(f"  {out.vm}: {out.reason}")
    failing = sum(1 for vm in plan.vms if vm.problem)
    say(f"{len(plan.vms)} selected, {failing} of them cannot be backed up, {len(plan.left_out)} left out")
    for warning in plan.warnings:
        note(f"warning: {warning}")


def _print_vm(vm: VmPlan) -> None:
    if vm.problem:
        say(f"  cannot be backed up: {vm.problem.message.removeprefix(f'{vm.vm}: ')}")
        if vm.problem.hint:
            say(f"    {vm.problem.hint}")
    for disk in vm.disks:
        _print_disk(disk)


def _print_disk(disk: DiskPlan) -> None:
    over = f" over {disk.transport}" if disk.transport else ""
    why = f": {disk.reason}" if disk.reason else ""
    changed = f", {size(disk.about_bytes)} the last time" if disk.about_bytes is not None and not disk.reason else ""
    say(f"  {disk.label} ({size(disk.capacity_bytes)}), {disk.mode}{over}{changed}{why}")
    for refusal in disk.refused:
        say(f"    not over {refusal}")
