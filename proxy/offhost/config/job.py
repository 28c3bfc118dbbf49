"""The keys of a job file: which VMs, when, how, and into which repository."""

from datetime import timedelta
from typing import Annotated, ClassVar, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from offhost.config.cron import BadCronLine, CronLine
from offhost.config.section import (
    AbsolutePath,
    Age,
    Milliseconds,
    Minutes,
    Name,
    Rate,
    Section,
    Tag,
    Text,
    not_yet,
    wrong,
)
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


def _attribute(text: str) -> str:
    name, separator, value = text.partition("=")
    if not (name and separator and value):
        raise wrong("not a custom attribute with its value", 'write it as "owner=finance"; "owner=*" is any value')
    return text


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
    """Names the VMs that all of its keys fit. Values are patterns (`*`, `?`, `[a-z]`, exact case) but for `folder`."""

    name: Text | None = Field(default=None, description='a pattern for VM names, such as "db-*"')
    folder: Annotated[Text, AfterValidator(_folder)] | None = Field(default=None, description="an inventory folder")
    pool: Text | None = Field(default=None, description="a resource pool or vApp with all in it: Production/Web")
    cluster: Text | None = Field(default=None, description="a cluster's name")
    host: Text | None = Field(default=None, description="an ESX host's name")
    datastore: Text | None = Field(default=None, description="a datastore on which any file of the VM lies")
    tag: Tag | None = Field(default=None, description='a tag, such as "backup:nightly"')
    attribute: Annotated[Text, AfterValidator(_attribute)] | None = Field(
        default=None, description='a custom attribute, such as "owner=finance"'
    )

    @model_validator(mode="after")
    def _some_way(self) -> "Rule":
        if all(getattr(self, name) is None for name in type(self).model_fields):
            raise wrong("a rule says what it names", 'such as { name: "db-*" }')
        return self


class Select(Section):
    """Which VMs: what any rule of `include` names, less what any of `exclude` names."""

    include: tuple[Rule, ...] = Field(min_length=1, description='rules such as { name: "db-*" }')
    exclude: tuple[Rule, ...] = Field(default=(), description="rules for VMs to leave out")
    templates: Literal["include", "exclude", "only"] = Field(
        default="include", description="whether templates are meant too: include, exclude or only"
    )


class Full(Section):
    """When a disk that could be read incrementally is read in full all the same."""

    every: Age = Field(description="how old its last full read may become: 30d")


class Audit(Section):
    """How what change tracking says to be unchanged is checked against the last backup."""

    every: Age = Field(default=timedelta(days=30), description="how old a disk's last audit may become: 30d")
    read: Literal["sample", "all"] = Field(
        default="sample", description="sample, up to 256 MiB of each disk, or all of it"
    )


class Vss(Section):
    """What Windows' volume shadow copy service is asked for in quiescing, where vSphere passes it on (from 6.5 on)."""

    backup_type: Literal["full", "incremental", "differential", "log", "copy", "other"] = Field(
        default="copy", description="copy leaves the applications' own backup history alone; full may cut their logs"
    )
    context: Literal["auto", "backup", "file_share_backup"] = Field(
        default="auto", description="auto, backup (with the writers) or file_share_backup (without them)"
    )
    bootable_system_state: bool = Field(default=False, description="true or false")
    partial_file_support: bool = Field(default=False, description="true or false")


class Quiesce(Section):
    """How hard the guest's file systems and applications are made consistent."""

    later: ClassVar[frozenset[str]] = frozenset({"applications", "pre", "post"})

    policy: Literal["require", "try", "off"] = Field(default="try", description="require, try or off")
    timeout: Minutes = Field(default=15, ge=5, le=240, description="how long the guest may take, 5m to 4h")
    vss: Vss = Field(default_factory=Vss, description="what Windows' volume shadow copy service is asked for")


class JobLimits(Section):
    """What this job does at once."""

    vms: int | None = Field(default=None, ge=1, le=256, description="VMs of this job at once")
    per_datastore: int | None = Field(default=None, ge=1, le=256, description="VMs at once on one datastore")
    per_host: int | None = Field(default=None, ge=1, le=256, description="VMs at once that run on one host")
    read_rate: Rate | None = Field(default=None, description="how fast the job reads in all, such as 200MiB/s")
    datastore_latency: Milliseconds | None = Field(
        default=None, description="read slower while a datastore answers slower than this: 30ms"
    )


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


class Directory(Section):
    """A folder of VM files on a mounted datastore. Of kind directory."""

    path: AbsolutePath = Field(description="the VM's folder on this machine, such as /mnt/nfs-prod/web01")
    consistency: Literal["as_is", "power_off"] = Field(
        default="as_is", description="as_is, or power_off: shut its guest down meanwhile, which needs `vcenter`"
    )
    shutdown_timeout: Minutes = Field(default=10, ge=1, le=240, description="how long the guest may take, 1m to 4h")
    force_off: Annotated[bool, Field(strict=True)] = Field(
        default=False, description="switch a VM off whose guest does not shut down in time; else the backup fails"
    )


Transport = Annotated[Literal["datastore", "https"], not_yet("hotadd", "nbd", "nfc", "san")]


_OF_IMAGES = frozenset({"audit", "full", "mode", "quiesce", "transports"})

_LIMITS_OF = {"directory": {"vms", "read_rate"}, "host": {"vms"}}
"""The limits that mean something to the other kinds."""


class Job(Section):
    """One file of jobs.d."""

    later: ClassVar[frozenset[str]] = frozenset(
        {
            "files",
            "notify",
            "objective",
            "retry",
            "verify",
        }
    )

    job: Name = Field(description="the job's name")
    schedule: Schedule | None = Field(default=None, description="when it runs; without one, only when told to")
    vcenter: Name | None = Field(default=None, description="one of proxy.yaml's vcenters")
    select: Select | None = Field(default=None, description="which VMs, or which hosts")
    kind: Annotated[Literal["image", "directory", "host"], not_yet("files", "agent")] = Field(
        default="image", description="image, directory or host"
    )
    directory: Directory | None = Field(default=None, description="the folder that kind directory backs up")
    mode: Literal["full", "incremental", "differential"] = Field(
        default="incremental", description="full, incremental or differential"
    )
    full: Full | None = Field(default=None, description="when disks are read in full all the same: { every: 30d }")
    audit: Audit = Field(default_factory=Audit, description="how change tracking is checked")
    quiesce: Quiesce = Field(default_factory=Quiesce, description="how the guest is made consistent")
    transports: Annotated[tuple[Transport, ...], AfterValidator(_no_twice)] = Field(
        default=("datastore", "https"), min_length=1, description="datastore and https, the preferred first"
    )
    repository: Name = Field(description="one of proxy.yaml's repositories")
    copy_to: tuple[CopyTo, ...] = Field(default=(), description="repositories to copy each restore point to")
    retention: Retention | None = Field(default=None, description="which restore points are kept; without it, all")
    limits: JobLimits = Field(default_factory=JobLimits, description="what is done at once")
    consolidate: Annotated[bool, Field(strict=True)] = Field(
        default=False, description="fold what is left of others' snapshots when a VM's disks need it"
    )

    @model_validator(mode="after")
    def _what_the_kind_needs(self) -> "Job":
        meant_for_vms = sorted(self.model_fields_set & _OF_IMAGES) if self.kind != "image" else ()
        if meant_for_vms:
            raise wrong(f"`{meant_for_vms[0]}` is for kind: image", f"take it out: kind {self.kind} does not use it")
        if self.kind != "image" and self.retention is not None and self.retention.after_vm_deleted is not None:
            raise wrong("`retention.after_vm_deleted` is for kind: image", "take it out: nobody tells what is deleted")
        meant_for_vms = sorted(self.limits.model_fields_set - _LIMITS_OF.get(self.kind, self.limits.model_fields_set))
        if meant_for_vms:
            raise wrong(f"`limits.{meant_for_vms[0]}` is for kind: image", f"kind {self.kind} does not use it")
        if self.kind == "directory":
            self._of_a_directory()
            return self
        if self.directory is not None:
            raise wrong("`directory` is for kind: directory", "write kind: directory, or take it out")
        if self.vcenter is None or self.select is None:
            raise wrong(
                f"kind: {self.kind} needs `vcenter` and `select`", 'such as select: { include: [ { name: "*" } ] }'
            )
        if self.kind == "host":
            rules = (*self.select.include, *self.select.exclude)
            if any(rule.model_fields_set != {"name"} for rule in rules):
                raise wrong("hosts are selected by name", 'such as { name: "esx*" }')
        return self

    @model_validator(mode="after")
    def _full_at_times(self) -> "Job":
        if self.mode == "full" and not self.model_fields_set.isdisjoint({"full", "audit"}):
            raise wrong("mode: full always reads everything", "take `full` and `audit` out, or choose another mode")
        return self

    def _of_a_directory(self) -> None:
        if self.directory is None:
            raise wrong("kind: directory needs `directory`", "such as directory: { path: /mnt/nfs-prod/web01 }")
        if self.select is not None:
            raise wrong("kind: directory selects nothing", "take `select` out: the folder says which VM it is")
        if self.directory.consistency == "power_off" and self.vcenter is None:
            raise wrong("consistency: power_off needs `vcenter`", "name the vCenter that can shut the VM down")
        if self.directory.consistency == "as_is" and self.vcenter is not None:
            raise wrong("consistency: as_is asks no vCenter", "take `vcenter` out, or write consistency: power_off")

    @model_validator(mode="after")
    def _copies_elsewhere(self) -> "Job":
        targets = [copy.repository for copy in self.copy_to]
        if self.repository in targets:
            raise wrong("`copy_to` names the repository that the job backs up into", "name another one")
        if len(set(targets)) != len(targets):
            raise wrong("`copy_to` names one repository twice", "name each once")
        return self
