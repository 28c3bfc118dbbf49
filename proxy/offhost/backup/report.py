"""What a VM's backup did, disk by disk: values for the run's record, the command line and REST."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from offhost.ids import DiskKey, VmId

Consistency = Literal["application", "filesystem", "crash", "offline", "torn"]
"""What a restore point was brought to: `torn` is none at all, each part of a disk is of another moment."""


@dataclass(frozen=True, slots=True)
class Problem:
    """An error as a value: what an OffhostError said."""

    code: str
    message: str
    hint: str | None


@dataclass(frozen=True, slots=True)
class DiskReport:
    """One disk's copy. Bytes: `read` from the source, `new` to the repository (plain), `stored` of those, sealed."""

    key: DiskKey
    label: str
    capacity_bytes: int
    mode: Literal["full", "incremental", "differential"]
    reason: str | None
    """Why it was read in full; None for another mode."""
    transport: str
    refused: tuple[str, ...]
    """Why the better transports could not serve it, `name: reason`."""
    changed_bytes: int | None
    """What change tracking reported; None when read in full."""
    read_bytes: int
    new_bytes: int
    stored_bytes: int
    host_bytes: int
    """Bytes that went through an ESX host."""
    audited_bytes: int | None = None
    """What was said to be unchanged and compared with the last backup; None when no audit was due."""
    unreported_bytes: int = 0
    """What the audit found to have changed without change tracking saying so."""


CopyState = Literal["planned", "copied", "there", "failed", "left"]
"""`there`: somebody else copied it meanwhile; `left`: not tried, for what failed before would fail it too."""


@dataclass(frozen=True, slots=True)
class PointCopy:
    """What became of the copy of one restore point to another repository."""

    vm: str
    vm_id: VmId
    point: str
    """At the source."""
    time: str
    state: CopyState
    copy: str | None = None
    """At the destination: set exactly when the point is there."""
    read_bytes: int = 0
    """Of content, from the source."""
    new_bytes: int = 0
    """Of these, what the destination did not have."""
    stored_bytes: int = 0
    """What that takes there, compressed and sealed."""
    notes: tuple[str, ...] = ()
    """Why which disks were read whole; what was healed at the destination."""
    problem: Problem | None = None


@dataclass(frozen=True, slots=True)
class VmCopies:
    """What was copied of a VM to one other repository after its backup."""

    repository: str
    points: tuple[PointCopy, ...] = ()
    newest: datetime | None = None
    """When the newest point of the VM was taken that is there."""
    problem: Problem | None = None
    """Why nothing could be copied; why a point could not is with the point."""


@dataclass(frozen=True, slots=True)
class VmReport:
    """One VM of a run. `point` is set exactly when a restore point was committed."""

    vm: str
    vm_id: VmId
    point: str | None
    consistency: Consistency | None
    disks: tuple[DiskReport, ...]
    warnings: tuple[str, ...]
    problem: Problem | None
    started: str
    ended: str
    copies: tuple[VmCopies, ...] = ()
    """To other repositories, in the order of the job's `copy_to`."""


@dataclass(frozen=True, slots=True)
class DiskPlan:
    """What a backup would do to one disk, and why."""

    key: DiskKey
    label: str
    capacity_bytes: int
    mode: Literal["full", "incremental", "differential", "refused"]
    reason: str | None
    transport: str | None
    refused: tuple[str, ...]
    about_bytes: int | None = None
    """How much would be read, as far as that is known without asking: of a full read the whole disk, else what had
    changed at the job's last run.
    """


@dataclass(frozen=True, slots=True)
class VmPlan:
    """What a backup would do to one VM, touching nothing."""

    vm: str
    vm_id: VmId
    disks: tuple[DiskPlan, ...]
    problem: Problem | None
