"""`offhost restore …`: the ways back."""

from __future__ import annotations

from pathlib import Path

import click

from offhost.cli.invocation import Invocation
from offhost.cli.output import say, size
from offhost.cli.progress import shown
from offhost.cli.repository import interruptible, opened


@click.group()
def restore() -> None:
    """Restore a disk or a VM."""


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
        source = repository.restore_point(manifest).disk(key)
        restore_disk(source, to, workers, progress=lambda done, total: progress(str(to), done, total), stop=stop)
    say(f"{to}: {size(source.size_bytes)}, the disk of {manifest.vm_name} as of {manifest.time:%Y-%m-%d %H:%M:%S} UTC")
