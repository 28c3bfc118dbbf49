"""What the catalog holds, as values. Times are RFC 3339 in UTC, sizes are bytes."""

from dataclasses import dataclass
from typing import Literal

from offhost.ids import RunId

RunState = Literal["running", "success", "warning", "failed", "cancelled"]


@dataclass(frozen=True, slots=True)
class ProblemRow:
    """An error as it was told."""

    code: str
    message: str
    hint: str | None


@dataclass(frozen=True, slots=True)
class DiskRow:
    """One disk of a VM's backup."""

    key: str
    label: str
    capacity_bytes: int
    mode: str
    reason: str | None
    """Why it was read in full; None for an incremental."""
    transport: str
    refused: tuple[str, ...]
    """Why better transports could not serve it."""
    changed_bytes: int | None
    read_bytes: int
    new_bytes: int
    stored_bytes: int
    host_bytes: int
    audited_bytes: int | None = None
    """What was said to be unchanged and compared with the last backup; None when no audit was due."""
    unreported_bytes: int = 0
    """What the audit found to have changed without change tracking saying so."""


@dataclass(frozen=True, slots=True)
class CopiesRow:
    """What was copied of a VM to another repository after its backup. What went wrong is among the VM's warnings."""

    repository: str
    points: tuple[str, ...]
    """Their ids there."""
    read_bytes: int
    new_bytes: int
    stored_bytes: int
    newest: str | None
    """When the newest point of the VM was taken that is there."""


@dataclass(frozen=True, slots=True)
class VmRow:
    """One VM of a run."""

    vm: str
    vm_id: str
    point: str | None
    """The restore point that was committed."""
    consistency: str | None
    disks: tuple[DiskRow, ...]
    warnings: tuple[str, ...]
    problem: ProblemRow | None
    started: str
    ended: str
    copies: tuple[CopiesRow, ...] = ()


@dataclass(frozen=True, slots=True)
class ExpiredRow:
    """A restore point that a run's retention forgot."""

    point: str
    vm: str
    vm_id: str
    time: str
    reason: str


@dataclass(frozen=True, slots=True)
class RunRow:
    """One execution of a job."""

    id: RunId
    job: str
    trigger: str
    """What started it: `schedule`, `rest` or `cli`."""
    state: RunState
    started: str
    ended: str | None
    warnings: tuple[str, ...]
    """Those of the run itself; a VM's are with the VM."""
    problem: ProblemRow | None
    """What ended the run as a whole; a VM's is with the VM."""
    vms: tuple[VmRow, ...]
    """In the order in which they ended; empty in lists of runs."""
    expired: tuple[ExpiredRow, ...] = ()
    """What was forgotten after the backups."""
