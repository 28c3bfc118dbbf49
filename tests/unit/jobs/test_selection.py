"""Which VMs a job means, which it leaves out, and why."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from offhost.errors import Conflict
from offhost.jobs.selection import Selection, selected, tags_asked
from offhost.jobs.spec import Rule, Templates
from offhost.vsphere.inventory import Listing
from offhost.vsphere.values import Stray, Vm
from support.small_engine import job, vm

OPT_OUT = "offhost:exclude"
VMS = [
    vm("web02", folder="/DC0/vm/Production"),
    vm("web01", folder="/DC0/vm/Production/Web"),
    vm("db-1", folder="/DC0/vm/ProductionOld"),
    vm("db-scratch", folder="/DC0/vm"),
    vm("Web03", folder="/DC0/vm"),
]
PLACED = [
    replace(vm("a", datastores=("nfs-1", "ssd")), pool="Production/Web", cluster="edge", host="esx01.example"),
    replace(vm("b", datastores=("ssd",)), pool="Production", cluster="core", host="esx02.example"),
    replace(vm("c"), pool="ProductionOld", attributes=(("owner", "finance"), ("tier", "1"))),
    replace(vm("d", datastores=()), host="", attributes=(("owner", "hr"),)),
]
STRAY = Stray(
    moref="vm-lost",
    name="lost",
    folder="/DC0/vm/Production",
    host="esx1",
    datastores=(),
    pool="",
    cluster="",
    attributes=(),
    connection="orphaned",
)


def select(
    vms: Sequence[Vm],
    *include: Rule,
    exclude: Sequence[Rule] = (),
    strays: Sequence[Stray] = (),
    tagged: dict[str, frozenset[str]] | None = None,
    templates: Templates = "include",
) -> Selection:
    meant = job(include=include, exclude=tuple(exclude), templates=templates)
    return selected(meant, Listing(list(vms), list(strays)), {OPT_OUT: frozenset(), **(tagged or {})}, OPT_OUT)


def names(selection: Selection) -> list[str]:
    return [one.name for one in selection.chosen]


def test_a_pattern_names_vms_in_exact_case() -> None:
    assert names(select(VMS, Rule(name="web*"))) == ["web01", "web02"]
    assert names(select(VMS, Rule(name="web0[2-9]"))) == ["web02"]


def test_a_folder_names_all_beneath_it_and_no_namesake() -> None:
    assert names(select(VMS, Rule(folder="/DC0/vm/Production"))) == ["web01", "web02"]
    assert names(select(VMS, Rule(folder="/"))) == sorted(one.name for one in VMS)


def test_several_rules_name_what_any_of_them_does() -> None:
    chosen = select(VMS, Rule(name="db-*"), Rule(folder="/DC0/vm/Production/Web"))
    assert names(chosen) == ["db-1", "db-scratch", "web01"]


def test_several_keys_of_a_rule_name_what_all_of_them_do() -> None:
    assert names(select(VMS, Rule(name="web*", folder="/DC0/vm/Production/Web"))) == ["web01"]


def test_what_is_excluded_is_not_selected_whoever_includes_it() -> None:
    exclude = [Rule(name="*-scratch"), Rule(folder="/DC0/vm/Production")]
    assert names(select(VMS, Rule(name="*"), exclude=exclude)) == ["Web03", "db-1"]


def test_two_vms_of_one_name_are_both_selected() -> None:
    twins = [vm("twin", folder="/DC0/vm/a"), vm("twin", folder="/DC0/vm/b")]
    assert select(twins, Rule(name="twin")).chosen == twins


@pytest.mark.parametrize(
    ("rule", "meant"),
    [
        (Rule(pool="Production"), ["a", "b"]),
        (Rule(pool="Production/Web"), ["a"]),
        (Rule(pool="Web"), []),
        (Rule(pool="*/Web"), ["a"]),
        (Rule(pool="*"), ["a", "b", "c"]),
        (Rule(cluster="e*"), ["a"]),
        (Rule(cluster="*"), ["a", "b"]),
        (Rule(host="esx0?.example"), ["a", "b"]),
        (Rule(host="*"), ["a", "b", "c"]),
        (Rule(datastore="nfs-*"), ["a"]),
        (Rule(datastore="ssd"), ["a", "b"]),
        (Rule(attribute="owner=finance"), ["c"]),
        (Rule(attribute="owner=*"), ["c", "d"]),
        (Rule(attribute="Owner=*"), []),
        (Rule(attribute="own*=*"), []),
    ],
    ids=str,
)
def test_vms_are_named_by_where_they_lie_and_what_is_noted_of_them(rule: Rule, meant: list[str]) -> None:
    assert names(select(PLACED, rule)) == meant


def test_a_tag_names_its_bearers() -> None:
    tagged = {"backup:nightly": frozenset({"vm-web01"}), "backup:never": frozenset({"vm-db-1", "vm-web01"})}
    assert names(select(VMS, Rule(tag="backup:nightly"), tagged=tagged)) == ["web01"]
    kept = select(VMS, Rule(name="*1"), exclude=[Rule(tag="backup:never")], tagged=tagged)
    assert (names(kept), len(kept.left_out)) == ([], 2)


def test_exactly_the_tags_that_matter_are_asked_for() -> None:
    meant = job(include=(Rule(tag="a:b"), Rule(name="*")), exclude=(Rule(tag="c:d"),))
    assert tags_asked(meant, OPT_OUT) == {"a:b", "c:d", OPT_OUT}
    assert tags_asked(job(), None) == frozenset()
    assert tags_asked(job(include=(Rule(vm="web01"),)), OPT_OUT) == frozenset()


def test_a_vm_that_opts_out_is_in_no_job_unless_it_is_asked_for_by_itself() -> None:
    tagged = {OPT_OUT: frozenset({"vm-web01"})}
    selection = select(VMS, Rule(name="web*"), tagged=tagged)
    assert names(selection) == ["web02"]
    (out,) = selection.left_out
    assert (out.vm, out.reason) == ("/DC0/vm/Production/Web/web01", f"its tag {OPT_OUT} opts out of every job")
    assert names(select(VMS, Rule(vm="web01"), tagged=tagged)) == ["web01"]


def test_what_offhost_made_is_never_selected_not_even_by_itself() -> None:
    made = replace(vm("web01-verified"), made_for="verification")
    selection = select([made], Rule(name="*"))
    assert (names(selection), [out.reason for out in selection.left_out]) == (
        [],
        ["offhost made it itself: verification"],
    )
    with pytest.raises(Conflict, match="offhost made this VM itself"):
        select([made], Rule(vm="web01-verified"))


@pytest.mark.parametrize(
    ("templates", "meant"), [("include", ["golden", "web"]), ("exclude", ["web"]), ("only", ["golden"])]
)
def test_templates_are_meant_by_choice(templates: Templates, meant: list[str]) -> None:
    both = [vm("web"), replace(vm("golden"), template=True)]
    selection = select(both, Rule(name="*"), templates=templates)
    assert names(selection) == meant
    assert len(selection.left_out) == 2 - len(meant)


def test_an_include_that_names_nothing_is_a_warning_and_one_whose_vms_are_all_left_out_is_none() -> None:
    selection = select(VMS, Rule(name="wbe*"), Rule(name="db-*"), exclude=[Rule(name="db-*")])
    assert selection.warnings == ("`include` names no VM with name: wbe*",)


def test_a_vm_of_which_nothing_is_known_is_named_unless_it_is_left_out() -> None:
    (warning,) = select(VMS, Rule(folder="/DC0/vm/Production"), strays=[STRAY]).warnings
    assert warning.startswith("/DC0/vm/Production/lost (vm-lost) cannot be backed up: it is orphaned")
    assert select(VMS, Rule(name="web*"), strays=[STRAY]).warnings == ()
    assert select(VMS, Rule(name="*"), exclude=[Rule(name="lost")], strays=[STRAY]).warnings == ()
    opted_out = {OPT_OUT: frozenset({"vm-lost"})}
    assert select(VMS, Rule(name="*"), strays=[STRAY], tagged=opted_out).warnings == ()
