"""`offhost points …`: what can be restored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from offhost.cli.invocation import Invocation, json_option
from offhost.cli.output import note, say_json, size, table
from offhost.cli.repository import unlocked

if TYPE_CHECKING:
    from offhost.repository.manifest import Manifest


@click.group()
def points() -> None:
    """List restore points."""


@points.command(name="list")
@click.option("--vm", metavar="VM", help="Only this VM's, by name or identity.")
@json_option
@click.pass_obj
def list_(invocation: Invocation, vm: str | None) -> int:
    """List the restore points, oldest first within a VM. Exits with 3 when one of them does not open."""
    points, damaged = unlocked(invocation).points.read()
    found = [point for point in points if vm in (None, point.vm_name, point.vm_id)]
    if invocation.json:
        say_json([_described(point) for point in found])
    else:
        header = ("POINT", "VM", "TIME (UTC)", "KIND", "CONSISTENCY", "DISKS", "SIZE")
        table(header, [_row(point) for point in found])
    for error in damaged:
        note(f"warning: {error}")
    return 3 if damaged else 0


def _described(point: Manifest) -> dict[str, Any]:
    return {
        "id": point.id,
        "vm": point.vm_name,
        "vm_id": point.vm_id,
        "time": point.time.isoformat(),
        "kind": point.kind,
        "consistency": point.consistency,
        "disks": [
            {"key": disk.key, "label": disk.label, "size_bytes": disk.size_bytes, "data_bytes": disk.map.data_bytes}
            for disk in point.disks
        ],
    }


def _row(point: Manifest) -> tuple[str, ...]:
    keys = " ".join(disk.key for disk in point.disks)
    total = size(sum(disk.size_bytes for disk in point.disks))
    return (point.id[:12], point.vm_name, f"{point.time:%Y-%m-%d %H:%M:%S}", point.kind, point.consistency, keys, total)
