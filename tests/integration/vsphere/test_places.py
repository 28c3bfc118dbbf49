"""Where VMs lie, as jobs choose them by it; and those of which vCenter knows too little, which are listed too."""

from collections.abc import Iterator

import pytest
from pyVmomi import vim

from offhost.errors import VSphereError
from offhost.ids import InstallationId, RunId
from offhost.vsphere.inventory import as_it_is_now, find, listing, vms
from offhost.vsphere.marker import annotation
from offhost.vsphere.session import VSphere
from offhost.vsphere.survey import survey
from support.pyvmomi_client import PlainClient
from support.vcenter import DiskSpec, SimulatedVCenter

pytestmark = pytest.mark.vsim


@pytest.fixture
def client(vcenter: SimulatedVCenter) -> Iterator[PlainClient]:
    """Somebody else who works on the inventory."""
    with PlainClient(vcenter) as client:
        yield client


async def test_a_pool_is_told_by_its_path_below_the_cluster(vcenter: SimulatedVCenter, vsphere: VSphere) -> None:
    vcenter.create_vm("web", pool="Production/Web")
    vcenter.create_vm("free")
    assert {vm.name: vm.pool for vm in await vms(vsphere)} == {"web": "Production/Web", "free": ""}


async def test_host_and_cluster_are_told(vcenter: SimulatedVCenter, vsphere: VSphere) -> None:
    vcenter.create_vm("web")
    (vm,) = await vms(vsphere)
    assert (vm.cluster, vm.host.startswith("DC0_C0_H")) == ("DC0_C0", True)


async def test_a_template_is_in_a_cluster_and_in_no_pool(
    vcenter: SimulatedVCenter, vsphere: VSphere, client: PlainClient
) -> None:
    client.vm(vcenter.create_vm("golden", pool="Production", powered_on=False)).MarkAsTemplate()
    (vm,) = await vms(vsphere)
    assert (vm.template, vm.pool, vm.cluster) == (True, "", "DC0_C0")


async def test_custom_attributes_are_told_by_name(
    vcenter: SimulatedVCenter, vsphere: VSphere, client: PlainClient
) -> None:
    owner = client.content.customFieldsManager.AddCustomFieldDef("owner", vim.VirtualMachine)
    web, _ = vcenter.create_vm("web"), vcenter.create_vm("db")
    client.content.customFieldsManager.SetField(client.vm(web), owner.key, "finance")
    assert {vm.name: vm.attributes for vm in await vms(vsphere)} == {"web": (("owner", "finance"),), "db": ()}


async def test_what_offhost_made_is_told_by_the_mark_in_its_notes(
    vcenter: SimulatedVCenter, vsphere: VSphere, client: PlainClient
) -> None:
    mark = annotation("verification", InstallationId("a" * 32), RunId("b" * 32))
    for name, notes in (("made", mark), ("theirs", f"we use it as follows: {mark}")):
        client.wait(client.vm(vcenter.create_vm(name)).Reconfigure(vim.vm.ConfigSpec(annotation=notes)))
    assert {vm.name: vm.made_for for vm in await vms(vsphere)} == {"made": "verification", "theirs": None}


async def test_a_vm_without_a_configuration_is_listed_with_what_is_known_of_it(
    vcenter: SimulatedVCenter, vsphere: VSphere
) -> None:
    vcenter.create_vm("web")
    lost = vcenter.create_vm("lost", folder="Production")
    vcenter.set_connection(lost, "orphaned", forgotten=True)
    found = await listing(vsphere)
    assert [vm.name for vm in found.vms] == ["web"]
    (stray,) = found.strays
    assert (stray.name, stray.folder, stray.moref, stray.connection) == ("lost", "/DC0/vm/Production", lost, "orphaned")


async def test_a_vm_that_goes_while_many_are_surveyed_does_not_keep_the_others_back(
    vcenter: SimulatedVCenter, vsphere: VSphere
) -> None:
    morefs = [vcenter.create_vm(name, [DiskSpec(1 << 20)], powered_on=False) for name in ("one", "two", "three")]
    listed = await vms(vsphere)
    vcenter.destroy_vm(morefs[1])
    surveyed = await survey(vsphere, listed)
    assert set(surveyed) == {morefs[0], morefs[2]}
    assert all(len(one.disks) == 1 for one in surveyed.values())


@pytest.mark.parametrize("state", ["disconnected", "inaccessible", "orphaned", "invalid"])
async def test_a_vm_that_nothing_reaches_is_refused_by_name_with_the_mend(
    vcenter: SimulatedVCenter, vsphere: VSphere, state: str
) -> None:
    moref = vcenter.create_vm("web")
    vm = await find(vsphere, moref)
    vcenter.set_connection(moref, state)
    with pytest.raises(VSphereError, match="web: ") as refusal:
        await as_it_is_now(vsphere, vm)
    assert refusal.value.hint
