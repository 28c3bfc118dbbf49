"""Whether a disk can be read incrementally on the last restore point, or must be read in full, and why.

Owns: what a point remembers of where a disk was read (`source`), and every doubt that means a full read. Pure.
Does not own: what changed (vsphere.tracking).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from offhost.ids import DiskKey
from offhost.repository.points.manifest import PointDisk
from offhost.vsphere.values import Disk


@dataclass(frozen=True, slots=True)
class Source:
    """Where and when a disk was read, as its point keeps it."""

    change_id: str | None
    uuid: str | None
    unit: str
    device_key: int
    datastore: str
    file: str
    lineage: tuple[str, ...]
    """The snapshots above which it was taken, from the root down."""
    taken_at: str
    """By the endpoint's clock, shortly before the snapshot."""

    def to_json(self) -> dict[str, Any]:
        """For the manifest."""
        return {
            "change_id": self.change_id,
            "uuid": self.uuid,
            "unit": self.unit,
            "device_key": self.device_key,
            "datastore": self.datastore,
            "file": self.file,
            "lineage": list(self.lineage),
            "taken_at": self.taken_at,
        }


def source_of(disk: Disk, lineage: Sequence[str], taken_at: str) -> Source:
    """What to remember of a disk of a snapshot."""
    backing = disk.backing
    return Source(
        change_id=disk.change_id,
        uuid=backing.uuid,
        unit=disk.unit,
        device_key=disk.device_key,
        datastore=backing.datastore,
        file=backing.file,
        lineage=tuple(lineage),
        taken_at=taken_at,
    )


def full_read_reason(
    disk: Disk,
    base: PointDisk | None,
    *,
    lineage: Sequence[str],
    cutter: str,
    reverted: bool,
    readable: bool = True,
    template: bool = False,
) -> str | None:
    """Why this disk must be read in full; None when its changes since `base` may be asked for.

    The doubts are those of VMware's KB 1020128 and 1021607 and of tools that believed change tracking too long: a
    revert, above all, can keep the change id's UUID while the disk goes back in time.
    """
    if base is None:
        return "the first backup of this disk"
    known = base.source
    before = known.get("lineage")
    doubts = (
        (template, "a template has no snapshot to ask about changes"),
        (not readable, "what the repository holds of its last backup is damaged"),
        (base.map.cutter != cutter, f"its last backup was cut by {base.map.cutter}, this one by {cutter}"),
        (not disk.change_id, "change tracking is not active on it"),
        (not known.get("change_id"), "change tracking was not active at its last backup"),
        (known.get("uuid") != disk.backing.uuid, "it is another disk than at its last backup: its UUID differs"),
        (known.get("device_key") != disk.device_key, "it was attached anew since its last backup"),
        (base.size_bytes != disk.capacity_bytes, f"its size was {base.size_bytes} bytes, now {disk.capacity_bytes}"),
        (
            not isinstance(before, list) or list(lineage[: len(before)]) != before,
            "the VM's snapshots do not descend from those at its last backup: reverted or removed since",
        ),
        (reverted, "the VM was reverted to a snapshot since its last backup"),
    )
    return next((reason for doubtful, reason in doubts if doubtful), None)


def base_disk(disks: Sequence[PointDisk], key: DiskKey) -> PointDisk | None:
    """The disk of that key in the last point."""
    return next((disk for disk in disks if disk.key == key), None)
