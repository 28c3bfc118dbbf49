"""Which ESX hosts a job means. Pure: the inventory in, the chosen out."""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from offhost.errors import NotFound
from offhost.jobs.selection import LeftOut, Selection
from offhost.jobs.spec import JobSpec, Rule
from offhost.vsphere.hosts import EsxHost


def selected_hosts(job: JobSpec, hosts: Sequence[EsxHost]) -> Selection:
    """The hosts whose names a rule of `include` fits and none of `exclude` does.

    Raises: NotFound when one host is meant and there is none of that name, moref or UUID.
    """
    for rule in job.include:
        if rule.vm is not None:
            return Selection([_meant(hosts, rule.vm)])
    included = [host for host in hosts if _fits(job.include, host)]
    excluded = [host for host in included if _fits(job.exclude, host)]
    idle = [f"`include` names no host with {rule}" for rule in job.include if not any(_fits([rule], h) for h in hosts)]
    return Selection(
        chosen=[host for host in included if host not in excluded],
        left_out=tuple(LeftOut(host.name, host.id, "`exclude` names it") for host in excluded),
        warnings=tuple(idle),
    )


def _meant(hosts: Sequence[EsxHost], name_or_id: str) -> EsxHost:
    found = [host for host in hosts if name_or_id in (host.name, host.moref, host.uuid, host.id)]
    if len(found) != 1:
        there = ", ".join(host.name for host in hosts) or "none"
        raise NotFound(f"{len(found)} ESX hosts are called {name_or_id!r}", hint=f"there are: {there}")
    return found[0]


def _fits(rules: Iterable[Rule], host: EsxHost) -> bool:
    return any(rule.name is not None and fnmatchcase(host.name, rule.name) for rule in rules)
