"""Which VMs a job means."""

from offhost.jobs.selection import Selection, selected
from offhost.jobs.spec import Rule
from offhost.vsphere.inventory import Listing
from offhost.vsphere.values import Vm
from support.small_engine import job, vm

VMS = [
    vm("web02", folder="/DC0/vm/Production"),
    vm("web01", folder="/DC0/vm/Production/Web"),
    vm("db-1", folder="/DC0/vm/ProductionOld"),
    vm("db-scratch", folder="/DC0/vm"),
    vm("Web03", folder="/DC0/vm"),
]


def select(vms: list[Vm], include: tuple[Rule, ...], exclude: tuple[Rule, ...] = ()) -> Selection:
    return selected(job(include=include, exclude=exclude), Listing(vms, []), {}, None)


def names(include: tuple[Rule, ...], exclude: tuple[Rule, ...] = ()) -> list[str]:
    return [one.name for one in select(VMS, include, exclude).chosen]


def test_a_pattern_names_vms_in_exact_case() -> None:
    assert names((Rule(name="web*"),)) == ["web01", "web02"]
    assert names((Rule(name="web0[2-9]"),)) == ["web02"]


def test_a_folder_names_all_beneath_it_and_no_namesake() -> None:
    assert names((Rule(folder="/DC0/vm/Production"),)) == ["web01", "web02"]
    assert names((Rule(folder="/"),)) == sorted(one.name for one in VMS)


def test_several_rules_name_what_any_of_them_does() -> None:
    assert names((Rule(name="db-*"), Rule(folder="/DC0/vm/Production/Web"))) == ["db-1", "db-scratch", "web01"]


def test_what_is_excluded_is_not_selected_whoever_includes_it() -> None:
    assert names((Rule(name="*"),), (Rule(name="*-scratch"), Rule(folder="/DC0/vm/Production"))) == ["Web03", "db-1"]


def test_two_vms_of_one_name_are_both_selected() -> None:
    twins = [vm("twin", folder="/DC0/vm/a"), vm("twin", folder="/DC0/vm/b")]
    assert select(twins, (Rule(name="twin"),)).chosen == twins
