"""A VM made again of what was saved: the same hardware on the given disks, and nothing of the old one's identity."""

import json
import shutil
from typing import Any

import pytest

from offhost.errors import Conflict, NotFound, UsageError, VSphereError
from offhost.ids import DiskKey
from offhost.vsphere.configuration import configuration
from offhost.vsphere.inventory import find, vms
from offhost.vsphere.registration import create_vm, delete_path, make_directory, unregister_vm
from offhost.vsphere.session import VSphere
from offhost.vsphere.values import VmConfiguration
from support.vcenter import DiskSpec, SimulatedVCenter

pytestmark = pytest.mark.vsim


@pytest.fixture
async def original(vcenter: SimulatedVCenter, vsphere: VSphere) -> VmConfiguration:
    """The configuration of a VM with two disks, change tracking and EFI."""
    moref = vcenter.create_vm(
        "web",
        [DiskSpec(1 << 20, b"system"), DiskSpec(2 << 20, b"data")],
        change_tracking=True,
        memory_mb=2048,
        cpus=4,
        firmware="efi",
        guest_id="debian11_64Guest",
    )
    return await configuration(vsphere, await find(vsphere, moref))


async def copied_disks(vcenter: SimulatedVCenter, vsphere: VSphere, original: VmConfiguration) -> dict[DiskKey, str]:
    """The disks' files beneath a new directory, as a restore leaves them."""
    await make_directory(vsphere, "[DS2] web-again")
    copies: dict[DiskKey, str] = {}
    for disk in original.disks:
        source = vcenter.datastores["DS1"] / disk.backing.file.partition("] ")[2]
        for file in (source, source.with_name(source.name.replace(".vmdk", "-flat.vmdk"))):
            shutil.copy(file, vcenter.datastores["DS2"] / "web-again" / file.name)
        copies[disk.key] = f"[DS2] web-again/{source.name}"
    return copies


async def again(
    vcenter: SimulatedVCenter, vsphere: VSphere, original: VmConfiguration, **changes: Any
) -> tuple[VmConfiguration, tuple[str, ...]]:
    """The VM made again from JSON, as it reads afterwards, with the warnings."""
    usual: dict[str, Any] = {
        "name": "web-again",
        "directory": "[DS2] web-again",
        "disks": await copied_disks(vcenter, vsphere, original),
    }
    saved = json.loads(json.dumps(original.saved))
    created = await create_vm(vsphere, saved, **{**usual, **changes})
    assert created.vm.power == "off"
    return await configuration(vsphere, created.vm), created.warnings


async def test_the_hardware_is_the_same(vcenter: SimulatedVCenter, vsphere: VSphere, original: VmConfiguration) -> None:
    made, warnings = await again(vcenter, vsphere, original)
    same = ("memory_mib", "cpus", "cores_per_socket", "firmware", "guest_id", "hardware_version", "annotation")
    assert [made.saved[key] for key in same] == [original.saved[key] for key in same]
    assert [(disk.unit, disk.capacity_bytes) for disk in made.disks] == [
        (disk.unit, disk.capacity_bytes) for disk in original.disks
    ]
    assert [disk.backing.datastore for disk in made.disks] == ["DS2", "DS2"]
    assert warnings == ()


async def test_the_disks_hold_what_was_put_there(
    vcenter: SimulatedVCenter, vsphere: VSphere, original: VmConfiguration
) -> None:
    await again(vcenter, vsphere, original)
    vm = await find(vsphere, "web-again")
    contents = [vcenter.read(vm.moref, disk.key, 0, 6) for disk in vcenter.disks(vm.moref)]
    assert contents == [b"system", b"data\0\0"]


async def test_it_is_another_vm(vcenter: SimulatedVCenter, vsphere: VSphere, original: VmConfiguration) -> None:
    made, _ = await again(vcenter, vsphere, original)
    assert made.saved["uuid"] != original.saved["uuid"]
    assert made.saved["instance_uuid"] != original.saved["instance_uuid"]
    assert len({vm.id for vm in await vms(vsphere)}) == 2


async def test_change_tracking_is_not_taken_over(
    vcenter: SimulatedVCenter, vsphere: VSphere, original: VmConfiguration
) -> None:
    await again(vcenter, vsphere, original)
    assert not (await find(vsphere, "web-again")).change_tracking


async def test_a_folder_that_is_gone_is_replaced_and_said(
    vcenter: SimulatedVCenter, vsphere: VSphere, original: VmConfiguration
) -> None:
    original.saved["folder"] = "/DC0/vm/Gone"
    _, warnings = await again(vcenter, vsphere, original)
    assert any("/DC0/vm/Gone" in warning for warning in warnings)
    assert (await find(vsphere, "web-again")).folder == "/DC0/vm"


async def test_a_folder_that_was_asked_for_must_be_there(
    vcenter: SimulatedVCenter, vsphere: VSphere, original: VmConfiguration
) -> None:
    with pytest.raises(NotFound, match="/DC0/vm/Nowhere"):
        await again(vcenter, vsphere, original, folder="/DC0/vm/Nowhere")
    assert len(await vms(vsphere)) == 1


async def test_a_disk_that_is_not_restored_is_said(
    vcenter: SimulatedVCenter, vsphere: VSphere, original: VmConfiguration
) -> None:
    copies = await copied_disks(vcenter, vsphere, original)
    first = original.disks[0].key
    created = await create_vm(
        vsphere, original.saved, name="half", directory="[DS2] web-again", disks={first: copies[first]}
    )
    assert any("left out" in warning for warning in created.warnings)
    assert len((await configuration(vsphere, created.vm)).disks) == 1


async def test_a_disk_file_that_is_not_there_registers_nothing(
    vcenter: SimulatedVCenter, vsphere: VSphere, original: VmConfiguration
) -> None:
    missing = {disk.key: "[DS2] web-again/missing.vmdk" for disk in original.disks}
    with pytest.raises(VSphereError):
        await again(vcenter, vsphere, original, disks=missing)
    assert len(await vms(vsphere)) == 1


async def test_a_newer_format_is_refused(vsphere: VSphere, original: VmConfiguration) -> None:
    with pytest.raises(UsageError, match="format 2"):
        await create_vm(vsphere, {**original.saved, "format": 2}, name="x", directory="[DS2] x", disks={})


async def test_a_directory_that_is_there_is_a_conflict(vsphere: VSphere) -> None:
    await make_directory(vsphere, "[DS1] somewhere")
    with pytest.raises(Conflict):
        await make_directory(vsphere, "[DS1] somewhere")


async def test_a_directory_is_deleted_with_its_files(vcenter: SimulatedVCenter, vsphere: VSphere) -> None:
    await make_directory(vsphere, "[DS1] gone soon")
    (vcenter.datastores["DS1"] / "gone soon" / "file").write_bytes(b"x")
    await delete_path(vsphere, "[DS1] gone soon")
    assert not (vcenter.datastores["DS1"] / "gone soon").exists()


async def test_an_unregistered_vm_leaves_its_files(vcenter: SimulatedVCenter, vsphere: VSphere) -> None:
    vm = await find(vsphere, vcenter.create_vm("old", [DiskSpec(1 << 20)], powered_on=False))
    await unregister_vm(vsphere, vm)
    assert await vms(vsphere) == []
    assert list((vcenter.datastores["DS1"] / "old").glob("*.vmdk"))
