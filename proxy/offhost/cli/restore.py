"""`offhost restore …`: the ways back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from offhost.aio import in_thread
from offhost.cli.foreground import foreground
from offhost.cli.invocation import Invocation, json_option, only
from offhost.cli.output import note, say, say_json
from offhost.cli.progress import counted, shown
from offhost.cli.repository import interruptible, opened
from offhost.printable import size

if TYPE_CHECKING:
    from offhost.restore.vm import RestoredVm


@click.group()
def restore() -> None:
    """Restore a disk, a VM, or a file kept with a restore point."""


@restore.command()
@click.argument("point")
@click.option("--to", required=True, type=click.Path(path_type=Path), help="The raw file to make; it must not exist.")
@click.option("--disk", "key", metavar="KEY", help="Which disk, where the point has several.")
@click.pass_obj
def disk(invocation: Invocation, point: str, to: Path, key: str | None) -> None:
    """Write a disk of POINT (an id, the beginning of one, or VM@latest) to a sparse raw file."""
    from offhost.chunking.workers import SpanWorkers
    from offhost.restore.disk import restore_disk

    with (
        interruptible() as stop,
        opened(invocation) as repository,
        SpanWorkers() as workers,
        shown() as progress,
    ):
        manifest = repository.points.find(point)
        with repository.reading(manifest) as point_read:
            source = point_read.disk(key)
            restore_disk(source, to, workers, counted(progress, str(to), source.size_bytes, stop))
    say(f"{to}: {size(source.size_bytes)}, the disk of {manifest.vm_name} as of {manifest.time:%Y-%m-%d %H:%M:%S} UTC")


@restore.command("vm")
@click.argument("point")
@click.option("--new-name", required=True, help="What the new VM is called.")
@click.option("--vcenter", metavar="NAME", help="Which vCenter of proxy.yaml, where it names several.")
@click.option("--datastore", metavar="NAME", help="Where its disks go; by default where the old VM's were.")
@click.option("--folder", metavar="PATH", help="Its folder, as /DATACENTER/vm/FOLDER; by default the old VM's.")
@json_option
@click.pass_obj
def restore_vm(
    invocation: Invocation, *, point: str, new_name: str, vcenter: str | None, datastore: str | None, folder: str | None
) -> int:
    """Make a new VM of POINT in vSphere: disks written and checked, registered last, powered off.

    `--repo NAME` chooses the repository where proxy.yaml names several.
    """
    from offhost.clock import SystemClock
    from offhost.daemon.local import open_state
    from offhost.daemon.resources import resources

    configuration = invocation.configuration()
    center = only(configuration.vcenters, vcenter, "vCenter", "--vcenter")
    name = only(configuration.repositories, invocation.repo, "repository", "--repo")

    async def restored() -> RestoredVm:
        async with resources(configuration, open_state(configuration), SystemClock()) as opened:
            repository = (await opened.destination(name)).repository
            manifest = await in_thread(repository.points.find, point)
            with shown(quiet=invocation.json) as progress, repository.reading(manifest) as source:
                way_back = await opened.way_back(center, progress)
                return await way_back.run(source, new_name=new_name, datastore=datastore, folder=folder)

    _print_restored(foreground(restored()), as_json=invocation.json)
    return 0


@restore.command()
@click.argument("point")
@click.option("--to", required=True, type=click.Path(path_type=Path), help="The file to make; it must not exist.")
@click.option("--file", "name", metavar="NAME", help="Which file, where the point keeps several.")
@click.pass_obj
def export(invocation: Invocation, point: str, to: Path, name: str | None) -> None:
    """Write a file that is kept with POINT: the configuration of an ESX host, or a VM's .vmx or nvram."""
    from offhost.repository.points.manifest import first_origin
    from offhost.restore.files import chosen
    from offhost.restore.files import export as write

    with opened(invocation) as repository:
        manifest = repository.points.find(point)
        with repository.reading(manifest) as point_read:
            file = chosen(point_read, name)
            write(point_read, file, to)
    say(f"{to}: {size(file.size_bytes)}, {file.name} of {manifest.vm_name} as of {manifest.time:%Y-%m-%d %H:%M:%S} UTC")
    host = first_origin(manifest).get("host")
    if isinstance(host, dict):
        say(f"  of {host.get('product')}, hardware UUID {host.get('uuid')}: restore it to the same build only")


def _print_restored(vm: RestoredVm, *, as_json: bool) -> None:
    if as_json:
        say_json(vm)
        return
    say(f"{vm.vm.name}: restored over {vm.transport}, checked, registered in {vm.vm.folder}, powered off")
    for key, file in vm.disks.items():
        say(f"  {key}: {file}")
    say(f"  {size(vm.size_bytes)} of disks, {size(vm.host_bytes)} went through an ESX host")
    for warning in vm.warnings:
        note(f"warning: {warning}")
