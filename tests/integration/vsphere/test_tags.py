"""Tags and custom attributes: saved with a VM and put on it again."""

import pytest

from offhost.vsphere.configuration import configuration
from offhost.vsphere.inventory import find
from offhost.vsphere.registration import create_vm
from offhost.vsphere.session import VSphere
from offhost.vsphere.tags import attach_tags, tags_of
from offhost.vsphere.values import Vm
from support.vcenter import DiskSpec, SimulatedVCenter

pytestmark = pytest.mark.vsim

TAGGING = "/com/vmware/cis/tagging"


@pytest.fixture
async def vm(vcenter: SimulatedVCenter, vsphere: VSphere) -> Vm:
    """A VM."""
    return await find(vsphere, vcenter.create_vm("web", [DiskSpec(1 << 20)]))


@pytest.fixture
async def gold(vsphere: VSphere) -> dict[str, str]:
    """The tag `backup:gold`."""
    with vsphere.rest.session() as ask:
        category = {"name": "backup", "description": "", "cardinality": "SINGLE", "associable_types": []}
        made = ask("POST", f"{TAGGING}/category", {"create_spec": category})
        tag = ask("POST", f"{TAGGING}/tag", {"create_spec": {"name": "gold", "description": "", "category_id": made}})
    return {"id": str(tag), "name": "gold", "category": "backup"}


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
