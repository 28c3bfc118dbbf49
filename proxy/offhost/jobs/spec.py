"""What a job is, as a value: the runner and the engines take this and never see the configuration."""

from dataclasses import dataclass, field, fields
from datetime import timedelta
from pathlib import Path
from typing import Literal
from zoneinfo import ZoneInfo

from offhost.backup.audit import AuditPolicy
from offhost.backup.base import ReadMode
from offhost.config.cron import CronLine
from offhost.retention import RetentionPolicy
from offhost.vsphere.values import QuiescePolicy

Trigger = Literal["schedule", "rest", "cli"]
"""What started a run."""

Templates = Literal["include", "exclude", "only"]
"""Whether a job means templates as it means VMs, not at all, or nothing else."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Names the VMs that everything fits which is set here, at least one thing.

    All but `folder` and `vm` are patterns, `*`, `?`, `[…]`, in exact case.
    """

    name: str | None = None
    folder: str | None = None
    """An inventory path: the folder and all beneath it."""
    pool: str | None = None
    """A resource pool or vApp by its path below its cluster, `Production/Web`: the pool and all beneath it."""
    cluster: str | None = None
    host: str | None = None
    datastore: str | None = None
    """One on which any of its files lie."""
    tag: str | None = None
    """`category:tag`."""
    attribute: str | None = None
    """`name=value`: a custom attribute; the name is no pattern."""
    vm: str | None = None
    """One VM by its name where that is unique, or by its identity; set alone."""

    def __str__(self) -> str:
        """As its file writes it."""
        named = ((field.name, getattr(self, field.name)) for field in fields(self))
        return ", ".join(f"{name}: {value}" for name, value in named if value is not None)


@dataclass(frozen=True, slots=True)
class Timing:
    """When a job is due by itself."""

    cron: CronLine
    timezone: str


@dataclass(frozen=True, slots=True)
class CopyTarget:
    """A repository that points are copied to, and how old the newest copy of a VM may become."""

    repository: str
    within: timedelta | None = None


@dataclass(frozen=True, slots=True)
class SwitchingOff:
    """That a VM is shut down for its backup, and what becomes of one whose guest does not do so in time."""

    timeout_minutes: int
    force: bool


@dataclass(frozen=True, slots=True)
class FolderSpec:
    """The VM's folder that a job of kind directory backs up; without `switching_off` it is taken as it is."""

    path: Path
    switching_off: SwitchingOff | None = None


@dataclass(frozen=True, slots=True)
class JobSpec:
    """One job: which VMs, how, and into which repository."""

    name: str
    vcenter: str
    """Empty for a folder that is backed up as it is: nobody is asked."""
    repository: str
    include: tuple[Rule, ...]
    kind: Literal["image", "directory", "host"] = "image"
    folder: FolderSpec | None = None
    """Set exactly for the kind directory."""
    exclude: tuple[Rule, ...] = ()
    templates: Templates = "include"
    mode: ReadMode = "incremental"
    full_every: timedelta | None = None
    """How old a disk's last full read may become; None: any age."""
    audit: AuditPolicy = field(default_factory=AuditPolicy)
    quiesce: QuiescePolicy = field(default_factory=QuiescePolicy)
    transports: tuple[str, ...] = ("datastore", "https")
    """The preferred first."""
    timing: Timing | None = None
    """None: it runs only when told to."""
    retention: RetentionPolicy = field(default_factory=RetentionPolicy)
    """By days of the schedule's time zone."""
    copy_to: tuple[CopyTarget, ...] = ()
    tags: tuple[str, ...] = ()
    """Put on its points."""
    vms: int | None = None
    """How many of its VMs at once; None: as many as the proxy."""
    vms_per_datastore: int | None = None
    """How many VMs, of any job, may be under way on a datastore when one of this job's begins there."""
    consolidate: bool = False
    """Whether disks that need consolidation get it."""
    vms_per_host: int | None = None
    """How many VMs, of any job, may be under way on a host when one of this job's begins there."""
    read_bytes_per_s: float | None = None
    """How fast its disks are read, all together."""
    datastore_latency_ms: int | None = None
    """Reading slows down while a datastore answers slower."""

    @property
    def timezone(self) -> ZoneInfo:
        """Where its days begin."""
        return ZoneInfo(self.timing.timezone if self.timing else "UTC")
