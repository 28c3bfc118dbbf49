"""`offhost retention …`: what expires and why, and letting it expire.

Rules given as options hold for every point of the repository that `--repo` names; without any, the jobs of proxy.yaml
say what is kept. Does not own: the rules (retention), which job a point belongs to (repository.expiry).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import click

from offhost.cli.foreground import foreground
from offhost.cli.invocation import Invocation, json_option
from offhost.cli.output import note, say_json, table
from offhost.cli.repository import opened, unlocked
from offhost.errors import NotFound, OffhostError, UsageError

if TYPE_CHECKING:
    from offhost.config import Configuration
    from offhost.ids import VmId
    from offhost.jobs.spec import JobSpec
    from offhost.repository.lifetime.expiry import Judgement
    from offhost.repository.points.manifest import Manifest
    from offhost.repository.unlocked import UnlockedRepository
    from offhost.retention import RetentionPolicy
    from offhost.vsphere.roster import Roster

F = TypeVar("F", bound=Callable[..., Any])

_RULES = {
    "keep_last": "the latest N points",
    "hourly": "the latest point of each of the N latest hours that have one",
    "daily": "the same by days",
    "weekly": "the same by weeks (ISO 8601)",
    "monthly": "the same by months",
    "yearly": "the same by years",
}


class _Age(click.ParamType[timedelta]):
    name = "age"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        from offhost.retention import parse_age

        try:
            return parse_age(value)
        except ValueError as error:
            self.fail(f"{value}: {error}", param, ctx)


class _Zone(click.ParamType[ZoneInfo]):
    name = "zone"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> ZoneInfo:
        try:
            return ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            self.fail(f"{value}: no time zone is called so; write it as Europe/Zurich or UTC", param, ctx)


def _rules(command: F) -> F:
    """Give a command the rules of a policy as options."""
    count = click.IntRange(0, 100_000)
    for option in (
        click.option("--timezone", metavar="ZONE", type=_Zone(), default="UTC", show_default=True, help="Whose days."),
        click.option("--tag", "tags", metavar="TAG", multiple=True, help="Keep points with this tag; repeatable."),
        click.option("--within", metavar="AGE", type=_Age(), help="Keep what is this much older than the latest: 30d."),
        *(
            click.option(f"--{name.replace('_', '-')}", metavar="N", type=count, default=0, help=f"Keep {what}.")
            for name, what in reversed(_RULES.items())
        ),
        click.option("--vm", metavar="VM", help="Only this VM's points, by its name where unique or its identity."),
    ):
        command = option(command)
    return command


@dataclass(frozen=True, slots=True)
class _Decided:
    """A repository, and what was decided on its points."""

    name: str
    repository: UnlockedRepository
    judged: Sequence[Judgement]


@click.group()
def retention() -> None:
    """Say which restore points expire and why, and let them expire."""


@retention.command()
@_rules
@json_option
@click.pass_obj
def explain(invocation: Invocation, /, **asked: Any) -> int:
    """Tell of each restore point whether it is kept, and why; changes nothing.

    Exits with 3 when a point does not open, or when it cannot be said which VMs are deleted.
    """
    decided, warnings = _decided(invocation, **asked)
    _print(invocation, decided)
    return _warn(warnings)


@retention.command()
@_rules
@click.option("--dry-run", is_flag=True, help="Tell what would be forgotten, and forget nothing.")
@json_option
@click.pass_obj
def apply(invocation: Invocation, /, *, dry_run: bool, **asked: Any) -> int:
    """Forget the restore points that no rule keeps; their space comes back with `offhost repo gc`.

    The latest point of a VM is always kept, and so is what is pinned, what no job claims, and what does not open.
    Exits with 3 when a point does not open, or when it cannot be said which VMs are deleted.
    """
    from offhost.repository.lifetime.expiry import expire

    decided, warnings = _decided(invocation, **asked)
    kept = sum(each.keep for one in decided for each in one.judged)
    if dry_run:
        expired = [replace(one, judged=[each for each in one.judged if not each.keep]) for one in decided]
    else:
        expired = [replace(one, judged=expire(one.repository, one.judged)) for one in decided]
    _print(invocation, expired)
    count = sum(len(one.judged) for one in expired)
    vms = len({each.vm_id for one in expired for each in one.judged})
    done = "Would forget" if dry_run else "Forgot"
    note(f"{done} {_counted(count, 'restore point')} of {_counted(vms, 'VM')}; kept: {kept}.")
    if count and not dry_run:
        note("Their space comes back with `offhost repo gc`.")
    return _warn(warnings)


def _decided(
    invocation: Invocation, *, vm: str | None, timezone: ZoneInfo, tags: tuple[str, ...], **rules: Any
) -> tuple[list[_Decided], list[str]]:
    """What the rules that were given decide, else the jobs; and what there is to warn of."""
    from offhost.retention import RetentionPolicy

    policy = RetentionPolicy(tags=frozenset(tags), **rules)
    if policy.keeps_everything:
        decided, warnings = _by_jobs(invocation)
    else:
        decided, warnings = [_by_options(invocation, policy, timezone)], []
    decided = [replace(one, judged=_of(vm, one.judged)) for one in decided]
    if vm is not None and not any(one.judged for one in decided):
        raise NotFound(f"{vm}: no restore point of a VM of that name", hint="`offhost points list` shows them")
    unread = [each.id for one in decided for each in one.judged if each.time is None]
    return decided, [*warnings, *(f"point {name} does not open: `offhost repo verify` tells why" for name in unread)]


def _by_options(invocation: Invocation, policy: RetentionPolicy, timezone: ZoneInfo) -> _Decided:
    from offhost.repository.lifetime.expiry import OnePolicy, Terms, judge

    repository = unlocked(invocation)
    with _damage_known(invocation, repository) as damaged:
        judged = judge(repository, OnePolicy(Terms(policy, timezone)), damaged=damaged)
    return _Decided(str(invocation.repo), repository, judged)


@contextmanager
def _damage_known(
    invocation: Invocation, repository: UnlockedRepository
) -> Iterator[Callable[[Sequence[Manifest]], Collection[str]]]:
    """Which points are known to be damaged: the index is opened for it only where anything is."""
    if not repository.marks.damaged():
        yield lambda _: ()
        return
    from offhost.repository.verification.suspects import suspects

    with opened(invocation) as whole:
        yield partial(suspects, whole)


def _by_jobs(invocation: Invocation) -> tuple[list[_Decided], list[str]]:
    from offhost.daemon.local import open_state
    from offhost.daemon.retention import by_job
    from offhost.daemon.specs import job_spec
    from offhost.repository.lifetime.expiry import judge

    configuration = _with_jobs(invocation)
    jobs = [job_spec(job) for job in configuration.jobs if invocation.repo in (None, job.repository)]
    rosters, warnings = _rosters(configuration, jobs)
    installation = open_state(configuration).installation

    def is_deleted(vm: VmId) -> bool:
        return any(roster.lacks(vm) for roster in rosters)

    decided = []
    for name in sorted({job.repository for job in jobs}):
        named = replace(invocation, repo=name)
        repository, scheme = unlocked(named), by_job(jobs, name, installation)
        with _damage_known(named, repository) as damaged:
            judged = judge(repository, scheme, is_deleted=is_deleted, damaged=damaged)
        decided.append(_Decided(name, repository, judged))
    return decided, warnings


def _with_jobs(invocation: Invocation) -> Configuration:
    """The configuration, whose jobs say what is kept. Raises: UsageError when nothing does."""
    no_rule = "no rule says what to keep"
    if not invocation.config.is_file():
        raise UsageError(no_rule, hint="give some, such as --keep-last 3 --daily 14, or proxy.yaml with -c FILE")
    configuration = invocation.configuration()
    if invocation.repo is not None and invocation.repo not in configuration.repositories:
        names = ", ".join(sorted(configuration.repositories)) or "none"
        hint = f"give some, such as --keep-last 3 --daily 14, or name one of proxy.yaml's repositories: {names}"
        raise UsageError(f"{invocation.repo}: {no_rule}", hint=hint)
    return configuration


def _rosters(configuration: Configuration, jobs: Sequence[JobSpec]) -> tuple[list[Roster], list[str]]:
    """The VMs of each vCenter whose deleted VMs' points may go; and for one that does not answer, a warning."""
    from offhost.clock import SystemClock
    from offhost.daemon.local import open_state
    from offhost.daemon.resources import resources

    names = sorted({job.vcenter for job in jobs if job.retention.after_vm_deleted is not None})
    found: list[Roster] = []
    warnings: list[str] = []

    async def ask() -> None:
        async with resources(configuration, open_state(configuration), SystemClock()) as opened:
            for name in names:
                try:
                    found.append(await opened.roster(name))
                except OffhostError as error:
                    warnings.append(f"{name}: none of its VMs counts as deleted: {error}")

    if names:
        foreground(ask())
    return found, warnings


def _of(vm: str | None, judged: Sequence[Judgement]) -> list[Judgement]:
    """The judgements on one VM's points, whatever it was called when each was made. Raises: NotFound."""
    if vm is None:
        return list(judged)
    meant = {each.vm_id for each in judged if vm in (each.vm_name, each.vm_id)}
    if len(meant) > 1:
        raise NotFound(
            f"{vm}: several VMs had that name: {', '.join(sorted(str(each) for each in meant))}",
            hint="put the identity in place of the name",
        )
    return [each for each in judged if each.vm_id in meant]


def _print(invocation: Invocation, decided: Sequence[_Decided]) -> None:
    if invocation.json:
        say_json(
            [
                {
                    "repository": one.name,
                    "id": each.id,
                    "vm": each.vm_name,
                    "vm_id": each.vm_id,
                    "time": each.time.isoformat() if each.time else None,
                    "keep": each.keep,
                    "reasons": list(each.reasons),
                }
                for one in decided
                for each in one.judged
            ]
        )
        return
    for one in decided:
        if len(decided) > 1:
            note(f"repository {one.name}:")
        table(("POINT", "VM", "TIME (UTC)", "", "WHY"), [_row(each) for each in one.judged])


def _row(each: Judgement) -> tuple[str, ...]:
    time = f"{each.time:%Y-%m-%d %H:%M:%S}" if each.time else "?"
    name = each.id[:12] if each.time else each.id
    return (name, each.vm_name, time, "KEEP" if each.keep else "EXPIRE", "; ".join(each.reasons))


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _warn(warnings: Sequence[str]) -> int:
    for warning in warnings:
        note(f"warning: {warning}")
    return 3 if warnings else 0
