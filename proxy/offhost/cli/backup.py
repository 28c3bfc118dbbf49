"""`offhost backup …`: once, without a job."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from offhost.cli.foreground import foreground
from offhost.cli.invocation import Invocation, json_option, only
from offhost.cli.output import consistent, note, say, say_json
from offhost.cli.progress import shown
from offhost.cli.repository import interruptible, opened
from offhost.printable import size

if TYPE_CHECKING:
    from offhost.backup.report import VmReport

EXIT_WARNINGS = 3


_tag_option = click.option(
    "--tag", "tags", metavar="TAG", multiple=True, help="A word on the restore point, to keep it by; repeatable."
)


@click.group()
def backup() -> None:
    """Back up a disk image, a VM, or a host's configuration, once and without a job."""


@backup.command()
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--name", required=True, help="What the restore points are listed under.")
@click.option(
    "--write-check",
    type=click.Choice(["full", "sample", "off"]),
    default="full",
    show_default=True,
    help="How many chunks are opened again and compared before their pack is stored.",
)
@click.option("--compression", type=click.Choice(["lz4", "zstd", "none"]), default="lz4", show_default=True)
@_tag_option
@json_option
@click.pass_obj
def image(
    invocation: Invocation,
    *,
    files: tuple[Path, ...],
    name: str,
    write_check: Literal["full", "sample", "off"],
    compression: Literal["lz4", "zstd", "none"],
    tags: tuple[str, ...],
) -> int:
    """Back up raw or VMDK disks, or a folder with a VM's .vmx and .vmdk files.

    The second time under the same name, only new content is stored.
    """
    from offhost.backup.destination import Destination
    from offhost.backup.image import ImageBackup, ImageFiles
    from offhost.chunking.compress import Codec, Compression
    from offhost.chunking.workers import SpanWorkers
    from offhost.clock import SystemClock

    codec = {"lz4": Codec.LZ4, "zstd": Codec.ZSTD, "none": Codec.RAW}[compression]
    with (
        interruptible() as stop,
        opened(invocation) as repository,
        SpanWorkers() as workers,
        shown(quiet=invocation.json) as progress,
    ):
        destination = Destination(repository, workers, Compression(codec), write_check)
        report = ImageBackup(destination, SystemClock(), progress, stop, tags).run(ImageFiles(name, files))
    print_report(report, as_json=invocation.json)
    return EXIT_WARNINGS if report.warnings else 0


@backup.command("vm")
@click.argument("name", metavar="VM")
@click.option("--vcenter", metavar="NAME", help="Which vCenter of proxy.yaml, where it names several.")
@click.option("--full", is_flag=True, help="Read every disk in full.")
@_tag_option
@json_option
@click.pass_obj
def back_up_vm(invocation: Invocation, *, name: str, vcenter: str | None, full: bool, tags: tuple[str, ...]) -> int:
    """Back up a VM, by its name where unique or its identity, through vSphere into a repository of proxy.yaml.

    `--repo NAME` chooses the repository where proxy.yaml names several.
    """
    from offhost.cli.jobs import EXIT_OF, run_here
    from offhost.cli.runs import print_run
    from offhost.jobs.spec import JobSpec, Rule

    configuration = invocation.configuration()
    spec = JobSpec(
        name=f"backup vm {name}",
        vcenter=only(configuration.vcenters, vcenter, "vCenter", "--vcenter"),
        repository=only(configuration.repositories, invocation.repo, "repository", "--repo"),
        include=(Rule(vm=name),),
        mode="full" if full else "incremental",
        tags=tags,
    )
    run = foreground(run_here(configuration, spec, quiet=invocation.json))
    print_run(run, as_json=invocation.json)
    return EXIT_OF[run.state]


@backup.command("host")
@click.argument("name", metavar="HOST")
@click.option("--vcenter", metavar="NAME", help="Which vCenter of proxy.yaml, where it names several.")
@_tag_option
@json_option
@click.pass_obj
def back_up_host(invocation: Invocation, *, name: str, vcenter: str | None, tags: tuple[str, ...]) -> int:
    """Back up the configuration of an ESX host, by its name in vCenter, into a repository of proxy.yaml.

    `--repo NAME` chooses the repository where proxy.yaml names several. `offhost restore export` gives it back.
    """
    from offhost.cli.jobs import EXIT_OF, run_here
    from offhost.cli.runs import print_run
    from offhost.jobs.spec import JobSpec, Rule

    configuration = invocation.configuration()
    spec = JobSpec(
        name=f"backup host {name}",
        kind="host",
        vcenter=only(configuration.vcenters, vcenter, "vCenter", "--vcenter"),
        repository=only(configuration.repositories, invocation.repo, "repository", "--repo"),
        include=(Rule(vm=name),),
        tags=tags,
    )
    run = foreground(run_here(configuration, spec, quiet=invocation.json))
    print_run(run, as_json=invocation.json)
    return EXIT_OF[run.state]


def print_report(report: VmReport, *, as_json: bool) -> None:
    """What a backup did, disk by disk."""
    if as_json:
        say_json(report)
        return
    for disk in report.disks:
        say(f"{report.vm}: {disk.label} ({size(disk.capacity_bytes)}), {disk.mode}, read over {disk.transport}")
        if disk.reason:
            say(f"  {disk.reason}")
        changed = f"{size(disk.changed_bytes)} changed, " if disk.changed_bytes is not None else ""
        say(f"  {changed}{size(disk.read_bytes)} read, {size(disk.new_bytes)} new, {size(disk.stored_bytes)} stored")
        say(f"  {size(disk.host_bytes)} went through an ESX host")
    for warning in report.warnings:
        note(f"warning: {warning}")
    if report.point:
        say(f"restore point {report.point} of {report.vm} ({consistent(report.consistency)})")
