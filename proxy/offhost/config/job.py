"""The keys of a job file: which VMs, when, how, and into which repository."""

from typing import Annotated, ClassVar, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from offhost.config.cron import BadCronLine, CronLine
from offhost.config.section import Age, Minutes, Name, Section, Text, not_yet, wrong
from offhost.retention import COUNT_LIMIT


def _cron(text: object) -> CronLine:
    try:
        return CronLine.parse(text if isinstance(text, str) else "")
    except BadCronLine as error:
        raise wrong(
            f"not a cron line: {error}", 'minute hour day month weekday, in quotes, such as "0 22 * * mon-fri"'
        ) from None


def _timezone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise wrong(
            f"no time zone is called `{name}`", "write it as Europe/Zurich or UTC; Debian keeps them in package tzdata"
        ) from None
    return name


def _folder(path: str) -> str:
    if not path.startswith("/"):
        raise wrong("not an inventory path", "begin at the root: /Datacenter/vm/Folder")
    return path.rstrip("/") or "/"


def _no_twice(transports: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(transports)) != len(transports):
        raise wrong("one transport stands here twice", "name each once, the preferred first")
    return transports


class Schedule(Section):
    """When the job runs by itself."""

    later: ClassVar[frozenset[str]] = frozenset({"window", "at_window_end", "jitter", "catch_up"})

    cron: Annotated[CronLine, BeforeValidator(_cron)] = Field(description='a cron line, such as "0 22 * * mon-fri"')
    timezone: Annotated[str, AfterValidator(_timezone)] = Field(default="UTC", description="the cron line's time zone")


class Rule(Section):
    """One way to name VMs: a pattern for their names, or a folder with all beneath it."""

    later: ClassVar[frozenset[str]] = frozenset({"tag"})

    name: Text | None = Field(default=None, description='a pattern for VM names, such as "db-*"')
    folder: Annotated[Text, AfterValidator(_folder)] | None = Field(default=None, description="an inventory folder")

    @model_validator(mode="after")
    def _one_way(self) -> "Rule":
        if (self.name is None) == (self.folder is None):
            raise wrong("exactly one of name and folder is needed", 'such as { name: "db-*" }')
        return self


class Select(Section):
    """Which VMs: what any rule of `include` names, less what any of `exclude` names."""

    include: tuple[Rule, ...] = Field(min_length=1, description='rules such as { name: "db-*" }')
    exclude: tuple[Rule, ...] = Field(default=(), description="rules for VMs to leave out")


class Quiesce(Section):
    """How hard the guest's file systems and applications are made consistent."""

    later: ClassVar[frozenset[str]] = frozenset({"applications", "pre", "post"})

    policy: Literal["require", "try", "off"] = Field(default="try", description="require, try or off")
    timeout: Minutes = Field(default=15, ge=5, le=240, description="how long the guest may take, 5m to 4h")


class JobLimits(Section):
    """What this job does at once."""

    later: ClassVar[frozenset[str]] = frozenset({"per_host", "read_rate", "datastore_latency"})

    vms: int | None = Field(default=None, ge=1, le=256, description="VMs of this job at once")
    per_datastore: int | None = Field(default=None, ge=1, le=256, description="VMs at once on one datastore")


Count = Annotated[int, Field(ge=0, le=COUNT_LIMIT, strict=True)]


class Retention(Section):
    """Which restore points are kept: those that any of the rules keeps."""

    keep_last: Count = Field(default=0, description="how many of the latest points to keep, such as 3")
    hourly: Count = Field(default=0, description="for how many hours to keep the latest point of each")
    daily: Count = Field(default=0, description="for how many days to keep the latest point of each, such as 14")
    weekly: Count = Field(default=0, description="for how many weeks to keep the latest point of each, such as 8")
    monthly: Count = Field(default=0, description="for how many months to keep the latest point of each, such as 12")
    yearly: Count = Field(default=0, description="for how many years to keep the latest point of each, such as 3")
    within: Age | None = Field(default=None, description="how much older than the latest what is kept may be: 30d")
    after_vm_deleted: Age | None = Field(
        default=None, description="how long after its last point all points of a deleted VM go: 90d"
    )

    @model_validator(mode="after")
    def _some(self) -> "Retention":
        if not any(getattr(self, name) for name in type(self).model_fields):
            raise wrong("no rule says what to keep", "leave `retention` out to keep everything, or add daily: 14")
        return self


class CopyTo(Section):
    """Another repository that the job's restore points are copied to."""

    repository: Name = Field(description="another of proxy.yaml's repositories")
    within: Age | None = Field(default=None, description="a run warns when the newest copy is older: 24h")


Transport = Annotated[Literal["datastore", "https"], not_yet("hotadd", "nbd", "nfc", "san")]


class Job(Section):
    """One file of jobs.d."""

    later: ClassVar[frozenset[str]] = frozenset(
        {
            "audit",
            "consolidate",
            "directory",
            "files",
            "full",
            "notify",
            "objective",
            "retry",
            "verify",
        }
    )

    job: Name = Field(description="the job's name")
    schedule: Schedule | None = Field(default=None, description="when it runs; without one, only when told to")
    vcenter: Name = Field(description="one of proxy.yaml's vcenters")
    select: Select = Field(description="which VMs")
    kind: Annotated[Literal["image"], not_yet("files", "agent", "directory", "host")] = Field(
        default="image", description="image"
    )
    mode: Annotated[Literal["full", "incremental"], not_yet("differential")] = Field(
        default="incremental", description="full or incremental"
    )
    quiesce: Quiesce = Field(default_factory=Quiesce, description="how the guest is made consistent")
    transports: Annotated[tuple[Transport, ...], AfterValidator(_no_twice)] = Field(
        default=("datastore", "https"), min_length=1, description="datastore and https, the preferred first"
    )
    repository: Name = Field(description="one of proxy.yaml's repositories")
    copy_to: tuple[CopyTo, ...] = Field(default=(), description="repositories to copy each restore point to")
    retention: Retention | None = Field(default=None, description="which restore points are kept; without it, all")
    limits: JobLimits = Field(default_factory=JobLimits, description="what is done at once")

    @model_validator(mode="after")
    def _copies_elsewhere(self) -> "Job":
        targets = [copy.repository for copy in self.copy_to]
        if self.repository in targets:
            raise wrong("`copy_to` names the repository that the job backs up into", "name another one")
        if len(set(targets)) != len(targets):
            raise wrong("`copy_to` names one repository twice", "name each once")
        return self
