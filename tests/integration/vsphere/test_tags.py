"""Tags and custom attributes: VMs chosen by them; saved with a VM and put on it again."""

import pytest

from offhost.vsphere.configuration import configuration
from offhost.vsphere.inventory import find
from offhost.vsphere.registration import create_vm
from offhost.vsphere.session import VSphere
from offhost.vsphere.tags import attach_tags, tagged, tags_of
from offhost.vsphere.values import Vm
from support.sessions import found
from support.vcenter import DiskSpec, Rule, SimulatedVCenter

pytestmark = pytest.mark.vsim

TAGGING = "/com/vmware/cis/tagging"


@pytest.fixture
async def vm(vcenter: SimulatedVCenter, vsphere: VSphere) -> Vm:
    """A VM."""
    return await find(vsphere, vcenter.create_vm("web", [DiskSpec(1 << 20)]))


async def made_tag(vsphere: VSphere, category: str, name: str) -> dict[str, str]:
    """A new tag of a new category."""
    with vsphere.changing("making a tag", name), vsphere.rest.session() as ask:
        spec = {"name": category, "description": "", "cardinality": "SINGLE", "associable_types": []}
        made = ask("POST", f"{TAGGING}/category", {"create_spec": spec})
        tag = ask("POST", f"{TAGGING}/tag", {"create_spec": {"name": name, "description": "", "category_id": made}})
    return {"id": str(tag), "name": name, "category": category}


@pytest.fixture
async def gold(vsphere: VSphere) -> dict[str, str]:
    """The tag `backup:gold`."""
    return await made_tag(vsphere, "backup", "gold")


async def test_a_vm_without_tags_has_none(vsphere: VSphere, vm: Vm) -> None:
    assert await tags_of(vsphere, vm) == []


async def test_attached_tags_are_read_with_their_category(vsphere: VSphere, vm: Vm, gold: dict[str, str]) -> None:
    assert await attach_tags(vsphere, vm, [gold]) == []
    assert await tags_of(vsphere, vm) == [gold]


async def test_a_tag_that_is_gone_is_a_warning_and_does_not_keep_the_others(
    vsphere: VSphere, vm: Vm, gold: dict[str, str]
) -> None:
    gone = {"id": "urn:vmomi:InventoryServiceTag:x:GLOBAL", "name": "silver", "category": "backup"}
    (warning,) = await attach_tags(vsphere, vm, [gone, gold])
    assert "backup:silver" in warning
    assert await tags_of(vsphere, vm) == [gold]


async def test_a_new_vm_gets_the_saved_tags(vsphere: VSphere, vm: Vm, gold: dict[str, str]) -> None:
    saved = {**(await configuration(vsphere, vm)).saved, "tags": [gold]}
    created = await create_vm(vsphere, saved, name="again", directory="[DS1] again", disks={})
    assert await tags_of(vsphere, created.vm) == [gold]


async def test_an_attribute_that_is_not_defined_is_a_warning(vsphere: VSphere, vm: Vm) -> None:
    saved = {**(await configuration(vsphere, vm)).saved, "custom_attributes": {"unheard": "of"}}
    created = await create_vm(vsphere, saved, name="again", directory="[DS1] again", disks={})
    assert any("unheard" in warning for warning in created.warnings)


async def test_the_bearers_of_tags_are_told_by_pattern(
    vcenter: SimulatedVCenter, vsphere: VSphere, vm: Vm, gold: dict[str, str]
) -> None:
    vcenter.create_vm("without")
    await attach_tags(vsphere, vm, [gold])
    patterns = ["backup:gold", "backup:g*", "b*:gold", "backup:silver", "Backup:gold", "gold:backup"]
    bearers = await tagged(vsphere, patterns)
    assert {pattern for pattern in patterns if bearers[pattern] == {vm.moref}} == set(patterns[:3])
    assert all(bearers[pattern] == frozenset() for pattern in patterns[3:])


async def test_a_category_may_have_a_colon_in_its_name(vcenter: SimulatedVCenter, vsphere: VSphere, vm: Vm) -> None:
    await attach_tags(vsphere, vm, [await made_tag(vsphere, "ops:backup", "none")])
    patterns = ["ops:backup:none", "[a-z:]*:none", "ops:none"]
    bearers = await tagged(vsphere, patterns)
    assert [bearers[pattern] for pattern in patterns] == [{vm.moref}, {vm.moref}, frozenset()]


async def test_asking_for_tags_costs_no_more_for_more_vms(
    vcenter: SimulatedVCenter, vsphere: VSphere, gold: dict[str, str]
) -> None:
    costs: list[int] = []
    for name in ("one", "two", "three"):
        await attach_tags(vsphere, await found(vsphere, vcenter.create_vm(name)), [gold])
        vcenter.calls(reset=True)
        assert len((await tagged(vsphere, ["backup:gold"]))["backup:gold"]) == len(costs) + 1
        costs.append(len(vcenter.calls().rest))
    assert costs == [7, 7, 7]


async def test_no_tag_is_asked_for_when_none_is_meant(vcenter: SimulatedVCenter, vsphere: VSphere) -> None:
    vcenter.calls(reset=True)
    assert await tagged(vsphere, []) == {}
    assert vcenter.calls().rest == ()


async def test_a_connection_that_breaks_while_tags_are_asked_for_is_made_anew(
    vcenter: SimulatedVCenter, vsphere: VSphere, vm: Vm, gold: dict[str, str]
) -> None:
    await attach_tags(vsphere, vm, [gold])
    vcenter.rules([Rule("rest:GET", mode="drop", nth=2, count=1)])
    assert await tagged(vsphere, ["backup:gold"]) == {"backup:gold": {vm.moref}}
