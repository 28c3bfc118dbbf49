"""What a job is, as a value: the runner and the engines take this and never see the configuration."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal
from zoneinfo import ZoneInfo

from offhost.config.cron import CronLine
from offhost.retention import RetentionPolicy
from offhost.vsphere.values import QuiescePolicy

Trigger = Literal["schedule", "rest", "cli"]
"""What started a run."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Names VMs by a pattern (`*`, `?`, `[…]`, exact case), by a folder and all beneath it, or one VM by its name where
    that is unique, or by its identity; one of them is set.
    """

    name: str | None = None
    folder: str | None = None
    vm: str | None = None


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
class JobSpec:
    """One job: which VMs, how, and into which repository."""

    name: str
    vcenter: str
    repository: str
    include: tuple[Rule, ...]
    exclude: tuple[Rule, ...] = ()
    mode: Literal["full", "incremental"] = "incremental"
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

    @property
    def timezone(self) -> ZoneInfo:
        """Where its days begin."""
        return ZoneInfo(self.timing.timezone if self.timing else "UTC")
