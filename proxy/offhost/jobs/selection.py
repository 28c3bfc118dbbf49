"""Which VMs a job means. Pure: the inventory in, the chosen out."""

from collections.abc import Iterable
from fnmatch import fnmatchcase

from offhost.jobs.spec import JobSpec, Rule
from offhost.vsphere.inventory import choose
from offhost.vsphere.values import Vm


def selected(job: JobSpec, vms: Iterable[Vm]) -> list[Vm]:
    """The VMs that a rule of `include` names and none of `exclude` does, in the order of their names.

    Raises: NotFound when one VM is meant and none, or several, answer.
    """
    vms = list(vms)
    for rule in job.include:
        if rule.vm is not None:
            return [choose(vms, rule.vm)]
    chosen = (vm for vm in vms if _named(vm, job.include) and not _named(vm, job.exclude))
    return sorted(chosen, key=lambda vm: (vm.name, vm.id))


def _named(vm: Vm, rules: Iterable[Rule]) -> bool:
    return any(_matches(vm, rule) for rule in rules)


def _matches(vm: Vm, rule: Rule) -> bool:
    if rule.name is not None:
        return fnmatchcase(vm.name, rule.name)
    assert rule.folder is not None
    return f"{vm.folder}/".startswith(f"{rule.folder.rstrip('/')}/")
