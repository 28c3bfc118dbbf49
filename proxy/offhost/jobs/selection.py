"""Which VMs a job means, which it leaves out though a rule names them, and why.

Owns: the rules' meaning. Pure: the inventory and who bears which tag in, the chosen out. Does not own: reading either
(vsphere), kinds of job that back up something else than VMs.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from offhost.errors import Conflict
from offhost.ids import VmId
from offhost.jobs.spec import JobSpec, Rule
from offhost.jobs.subject import Subject
from offhost.vsphere.inventory import Listing, choose, unreachable
from offhost.vsphere.values import Stray, Vm

Tagged = Mapping[str, frozenset[str]]
"""The morefs of the VMs that bear a tag, by the pattern that means it."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A VM that `include` names and that is not backed up."""

    vm: str
    """With its folder."""
    vm_id: VmId
    reason: str


@dataclass(frozen=True, slots=True)
class Selection:
    """What a job means now. `warnings` are the run's: what it names and cannot be had, and what names nothing."""

    chosen: Sequence[Subject]
    left_out: tuple[LeftOut, ...] = ()
    warnings: tuple[str, ...] = ()


def tags_asked(job: JobSpec, opt_out_tag: str | None) -> frozenset[str]:
    """The tags, as patterns, whose bearers `selected` must be told."""
    if any(rule.vm is not None for rule in job.include):
        return frozenset()
    tags = [rule.tag for rule in (*job.include, *job.exclude)]
    return frozenset(tag for tag in (*tags, opt_out_tag) if tag is not None)


def selected(job: JobSpec, listing: Listing, tagged: Tagged, opt_out_tag: str | None) -> Selection:
    """The VMs that a rule of `include` names and nothing leaves out, in the order of their names.

    A VM that is named by itself is taken though it opts out: somebody asked for this one.
    Raises: NotFound when one VM is meant and none, or several, answer; Conflict when that one is of our own making.
    """
    for rule in job.include:
        if rule.vm is not None:
            return Selection([_of_users(choose(listing.vms, rule.vm))])
    included = [vm for vm in listing.vms if _first(job.include, vm, tagged)]
    reasons = {vm.moref: _left_out(job, vm, tagged, opt_out_tag) for vm in included}
    chosen = [vm for vm in included if reasons[vm.moref] is None]
    return Selection(
        chosen=sorted(chosen, key=lambda vm: (vm.name, vm.id)),
        left_out=tuple(
            LeftOut(f"{vm.folder}/{vm.name}", vm.id, reason)
            for vm in included
            if (reason := reasons[vm.moref]) is not None
        ),
        warnings=(*_idle(job, listing, tagged), *_unreachable(job, listing.strays, tagged, opt_out_tag)),
    )


def _of_users(vm: Vm) -> Vm:
    if vm.made_for is not None:
        raise Conflict(
            f"{vm.name}: offhost made this VM itself ({vm.made_for}): it is not backed up",
            hint="to keep it as a VM of your own, delete the line about offhost from its notes",
        )
    return vm


def _left_out(job: JobSpec, vm: Vm, tagged: Tagged, opt_out_tag: str | None) -> str | None:
    if vm.made_for is not None:
        return f"offhost made it itself: {vm.made_for}"
    if rule := _first(job.exclude, vm, tagged):
        return f"`exclude` names it, {rule}"
    if opt_out_tag is not None and vm.moref in tagged[opt_out_tag]:
        return f"its tag {opt_out_tag} opts out of every job"
    if vm.template and job.templates == "exclude":
        return "it is a template, and the job leaves templates out"
    if not vm.template and job.templates == "only":
        return "it is no template, and the job takes templates only"
    return None


def _idle(job: JobSpec, listing: Listing, tagged: Tagged) -> list[str]:
    """A rule that includes nothing is a slip of the pen more often than not."""
    everything: list[Vm | Stray] = [*listing.vms, *listing.strays]
    return [
        f"`include` names no VM with {rule}"
        for rule in job.include
        if not any(_matches(vm, rule, tagged) for vm in everything)
    ]


def _unreachable(job: JobSpec, strays: Iterable[Stray], tagged: Tagged, opt_out_tag: str | None) -> list[str]:
    named = [
        vm
        for vm in strays
        if _first(job.include, vm, tagged)
        and not _first(job.exclude, vm, tagged)
        and not (opt_out_tag is not None and vm.moref in tagged[opt_out_tag])
    ]
    return [f"{vm.folder}/{vm.name} ({vm.moref}) cannot be backed up: {_why(vm)}" for vm in named]


def _why(vm: Stray) -> str:
    why, hint = unreachable(vm.connection) or ("vSphere has no configuration of it just now", "is it being created?")
    return f"{why}; {hint}"


def _first(rules: Iterable[Rule], vm: Vm | Stray, tagged: Tagged) -> Rule | None:
    return next((rule for rule in rules if _matches(vm, rule, tagged)), None)


def _matches(vm: Vm | Stray, rule: Rule, tagged: Tagged) -> bool:
    """Whether all that the rule says fits."""
    return (
        (rule.name is None or fnmatchcase(vm.name, rule.name))
        and (rule.folder is None or f"{vm.folder}/".startswith(f"{rule.folder.rstrip('/')}/"))
        and (rule.pool is None or _within(vm.pool, rule.pool))
        and (rule.cluster is None or (vm.cluster != "" and fnmatchcase(vm.cluster, rule.cluster)))
        and (rule.host is None or (vm.host != "" and fnmatchcase(vm.host, rule.host)))
        and (rule.datastore is None or any(fnmatchcase(name, rule.datastore) for name in vm.datastores))
        and (rule.tag is None or vm.moref in tagged[rule.tag])
        and (rule.attribute is None or _has(vm, rule.attribute))
    )


def _within(path: str, pattern: str) -> bool:
    """Whether a pool, or any that it lies in, is meant."""
    steps = path.split("/") if path else []
    return any(fnmatchcase("/".join(steps[: at + 1]), pattern) for at in range(len(steps)))


def _has(vm: Vm | Stray, attribute: str) -> bool:
    name, _, pattern = attribute.partition("=")
    return any(known == name and fnmatchcase(value, pattern) for known, value in vm.attributes)
