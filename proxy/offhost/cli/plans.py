"""How a job's plan reads: VM by VM, disk by disk, what would happen and why, and what is left out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from offhost.cli.output import note, say, size

if TYPE_CHECKING:
    from offhost.backup.report import DiskPlan, VmPlan
    from offhost.jobs.runner import JobPlan


def print_plan(plan: JobPlan) -> None:
    """The plan for people; its warnings beside it."""
    for vm in plan.vms:
        _print_vm(vm)
    if plan.left_out:
        say("left out:")
    for out in plan.left_out:
        say(f"  {out.vm}: {out.reason}")
    refused = sum(1 for vm in plan.vms if vm.problem or any(disk.mode == "refused" for disk in vm.disks))
    say(f"{len(plan.vms)} selected, {refused} of them cannot be backed up, {len(plan.left_out)} left out")
    for warning in plan.warnings:
        note(f"warning: {warning}")


def _print_vm(vm: VmPlan) -> None:
    say(vm.vm)
    if vm.problem:
        say(f"  cannot be backed up: {vm.problem.message}")
        if vm.problem.hint:
            say(f"    {vm.problem.hint}")
    for disk in vm.disks:
        _print_disk(disk)


def _print_disk(disk: DiskPlan) -> None:
    how = f"{disk.mode}: {disk.reason}" if disk.reason else disk.mode
    say(f"  {disk.label} ({size(disk.capacity_bytes)}), {how}, over {disk.transport or 'no transport'}")
    for refusal in disk.refused:
        say(f"    not over {refusal}")
