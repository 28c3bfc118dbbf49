"""Whether a disk can be read incrementally on a restore point, or must be read in full, and why.

Owns: what a point remembers of where, when and how a disk was read (`source`), every doubt that means a full read, and
when a full read or an audit is due. Pure. Does not own: what changed (vsphere.tracking).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from offhost.clock import moment
from offhost.ids import DiskKey
from offhost.repository.points.manifest import Manifest, PointDisk
from offhost.retention import written_age
from offhost.vsphere.values import Disk

ReadMode = Literal["full", "incremental", "differential"]
"""How a disk was read: whole, what changed since its last point, or since its last full read."""


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
    mode: ReadMode
    full_at: str | None
    """When it was last read in full, by this proxy's clock; None when that is not known."""
    audited_at: str | None
    """When all of it, or a sample of what was said to be unchanged, was last compared with the disk."""
    lied: str | None = None
    """The UUID of the change tracking that an audit caught lying, until it is another."""

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
            "mode": self.mode,
            "full_at": self.full_at,
            "audited_at": self.audited_at,
        } | ({"lied": self.lied} if self.lied else {})


def source_of(
    disk: Disk,
    lineage: Sequence[str],
    taken_at: str,
    *,
    mode: ReadMode = "full",
    full_at: str | None = None,
    audited_at: str | None = None,
    lied: bool = False,
) -> Source:
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
        mode=mode,
        full_at=full_at,
        audited_at=audited_at,
        lied=_tracking(disk) if lied else None,
    )


def still_lies(disk: Disk, known: PointDisk | None) -> bool:
    """Whether change tracking on the disk is the one that an audit caught lying: it was not begun anew since."""
    lied = known.source.get("lied") if known else None
    return bool(lied) and lied == _tracking(disk)


def _tracking(disk: Disk) -> str | None:
    """What a change id has before its sequence: another after each switching on."""
    return disk.change_id.partition("/")[0] if disk.change_id else None


def due(last: object, every: timedelta, now: datetime) -> bool:
    """Whether what was last done then is to be done again. `last` is of a point's source, and hostile.

    What is not known, and a time that lies ahead because a clock was set back, is due.
    """
    try:
        age = now - moment(last)
    except (TypeError, ValueError, AttributeError):
        return True
    return not timedelta() <= age < every


def full_due_reason(base: PointDisk | None, every: timedelta | None, now: datetime) -> str | None:
    """Why a disk that may be read incrementally is read in full for once: its last full read is too long ago."""
    if every is None or base is None or not due(base.source.get("full_at"), every, now):
        return None
    last = str(base.source.get("full_at") or "at a time that is not known")
    return f"the job reads in full every {written_age(every)}, and last did {last:.40}"


def last_full(points: Iterable[Manifest], latest: PointDisk) -> tuple[Manifest | None, str | None]:
    """The point of the last full read of a disk, among those of its VM, to base a differential on; else why not.

    An earlier full read would do as well, but is further away than anybody who keeps differentials expects: after a
    full point is gone, the next is made at once.
    """
    full_at = latest.source.get("full_at")
    if not full_at:
        return None, "when it was last read in full is not known"
    for point in points:
        disk = point.disk(latest.key)
        if disk and disk.source.get("mode") == "full" and disk.source.get("full_at") == full_at:
            return point, None
    return None, f"the restore point of its last full read, {full_at!s:.40}, is not in the repository any more"


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
        (still_lies(disk, base), "an audit caught its change tracking lying, which was not begun anew since"),
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
