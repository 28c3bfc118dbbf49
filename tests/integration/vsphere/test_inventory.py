"""The inventory: cheap at a thousand VMs, identities that do not follow names, ambiguity refused."""

import pytest

from offhost.errors import NotFound
from offhost.vsphere.inventory import datastores, datastores_of, find, vms
from offhost.vsphere.session import VSphere
from support.sessions import connected
from support.vcenter import DiskSpec, SimulatedVCenter

pytestmark = pytest.mark.vsim


@pytest.mark.slow
async def test_a_thousand_vms_cost_a_handful_of_calls_and_no_devices(vcenter_binary: None) -> None:
    with SimulatedVCenter(vms=1000) as simulated:
        async with connected(simulated) as vsphere:
            simulated.calls(reset=True)
            assert len(await vms(vsphere)) == 1000
            assert sum(simulated.calls().methods.values()) <= 5


async def test_a_vm_is_shown_with_its_place(vcenter: SimulatedVCenter, vsphere: VSphere) -> None:
    moref = vcenter.create_vm("web", [DiskSpec(1 << 20)], datastore="DS2", powered_on=False)
    (vm,) = await vms(vsphere)
    assert (vm.name, vm.moref, vm.folder, vm.power, vm.template) == ("web", moref, "/DC0/vm", "off", False)
    assert vm.datastores == ("DS2",)
    assert vm.host
    assert not vm.change_tracking


async def test_a_vm_is_identified_by_endpoint_and_instance_uuid(vcenter: SimulatedVCenter, vsphere: VSphere) -> None:
    vcenter.create_vm("web")
    (vm,) = await vms(vsphere)
    endpoint, _, instance = vm.id.partition("/")
    assert endpoint == vsphere.about.instance_uuid
    assert len(instance) == 36


async def test_each_form_of_an_id_finds_the_vm(vcenter: SimulatedVCenter, vsphere: VSphere) -> None:
    vcenter.create_vm("web")
    vcenter.create_vm("db")
    web = await find(vsphere, "web")
    for form in (web.moref, web.id, web.id.partition("/")[2], "/DC0/vm/web"):
        assert await find(vsphere, form) == web


async def test_a_name_nobody_has_is_not_found(vsphere: VSphere) -> None:
    with pytest.raises(NotFound, match="no VM 'ghost'"):
        await find(vsphere, "ghost")


async def test_datastores_are_shown_with_type_and_space(vcenter: SimulatedVCenter, vsphere: VSphere) -> None:
    by_name = {store.name: store for store in await datastores(vsphere)}
    assert {name: store.kind for name, store in by_name.items()} == {
        "DS1": "VMFS",
        "DS2": "VMFS",
        "NFS1": "NFS",
        "VSAN1": "vsan",
    }
    assert all(0 < store.free_bytes <= store.capacity_bytes for store in by_name.values())


async def test_a_vms_datastores_are_its_own(vcenter: SimulatedVCenter, vsphere: VSphere) -> None:
    vm = await find(vsphere, vcenter.create_vm("web", [DiskSpec(1 << 20)], datastore="NFS1"))
    assert [store.name for store in await datastores_of(vsphere, vm)] == ["NFS1"]
