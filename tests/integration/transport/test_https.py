"""Disks read through `/folder` of a simulated vCenter, which refuses there what ESXi refuses."""

from dataclasses import replace

import pytest

from offhost.aio import in_thread
from offhost.blockio import read_bytes
from offhost.errors import DamagedImage, GateClosed, ReadFailed, TransportUnavailable
from offhost.transport.contract import open_first
from offhost.transport.https import HttpsTransport
from offhost.vsphere.configuration import configuration
from offhost.vsphere.folder import FolderAccess
from offhost.vsphere.session import VSphere
from offhost.vsphere.values import Disk, Vm
from support.disks import VM, disk
from support.sessions import found
from support.vcenter import DiskSpec, SimulatedVCenter
from support.vmdk_files import disk_bytes

SIZE = 9 << 20
CONTENT = disk_bytes(SIZE, 1)


async def off_vm(vcenter: SimulatedVCenter, vsphere: VSphere, datastore: str = "DS1") -> tuple[Vm, Disk]:
    """A powered-off VM and its disk."""
    moref = vcenter.create_vm("web", [DiskSpec(SIZE, CONTENT)], datastore=datastore, powered_on=False)
    vm = await found(vsphere, moref)
    return vm, (await configuration(vsphere, vm)).disks[0]


async def test_the_disk_of_a_powered_off_vm_is_read_and_its_bytes_are_counted(
    vcenter: SimulatedVCenter, vsphere: VSphere, folder: FolderAccess
) -> None:
    vm, disk = await off_vm(vcenter, vsphere)
    vcenter.calls(reset=True)
    opened = await in_thread(open_first, [HttpsTransport(folder)], vm, disk)
    assert await in_thread(read_bytes, opened.source, 0, SIZE) == CONTENT
    assert await in_thread(read_bytes, opened.source, 1000, 5000) == CONTENT[1000:6000]
    assert opened.host_bytes() == vcenter.calls().folder_bytes_served > SIZE
    assert opened.source.allocated().total_bytes == SIZE
    opened.close()


async def test_a_running_vm_is_refused_before_and_by_the_host(
    vcenter: SimulatedVCenter, vsphere: VSphere, folder: FolderAccess
) -> None:
    vm, disk = await off_vm(vcenter, vsphere)
    transport = HttpsTransport(folder)
    assert "ESXi locks" in str(transport.refusal(replace(vm, power="on"), disk))
    vcenter.power(vm.moref, on=True)
    with pytest.raises((TransportUnavailable, ReadFailed)):
        await in_thread(lambda: read_bytes(transport.open(vm, disk).source, 0, SIZE))


async def test_a_vm_that_is_switched_on_while_it_is_read_is_an_error_and_not_zeros(
    vcenter: SimulatedVCenter, vsphere: VSphere, folder: FolderAccess
) -> None:
    vm, disk = await off_vm(vcenter, vsphere)
    opened = await in_thread(HttpsTransport(folder).open, vm, disk)
    vcenter.power(vm.moref, on=True)
    with pytest.raises(ReadFailed):
        await in_thread(read_bytes, opened.source, 0, SIZE)


async def test_a_vsan_datastore_is_refused(vcenter: SimulatedVCenter, vsphere: VSphere, folder: FolderAccess) -> None:
    vm, disk = await off_vm(vcenter, vsphere, "VSAN1")
    with pytest.raises(TransportUnavailable, match="https"):
        await in_thread(open_first, [HttpsTransport(folder)], vm, disk)


async def test_a_disk_smaller_than_it_should_be_is_damaged(
    vcenter: SimulatedVCenter, vsphere: VSphere, folder: FolderAccess
) -> None:
    vm, disk = await off_vm(vcenter, vsphere)
    transport = HttpsTransport(folder)
    with pytest.raises(DamagedImage, match="vSphere says"):
        await in_thread(transport.open, vm, replace(disk, capacity_bytes=SIZE * 2))
    vcenter.disks(vm.moref)[0].extent.write_bytes(CONTENT[:-512])
    with pytest.raises(DamagedImage, match="its descriptor says"):
        await in_thread(transport.open, vm, disk)


async def test_the_fingerprint_holds_while_nothing_changes(
    vcenter: SimulatedVCenter, vsphere: VSphere, folder: FolderAccess
) -> None:
    vm, disk = await off_vm(vcenter, vsphere)
    opened = await in_thread(HttpsTransport(folder).open, vm, disk)
    before = await in_thread(opened.fingerprint)
    assert await in_thread(opened.fingerprint) == before
    descriptor = vcenter.disks(vm.moref)[0].files[0]
    text = descriptor.read_text()
    descriptor.write_text(text.replace("CID=", "CID=0", 1)[: len(text)])
    descriptor.write_text("\n".join("CID=12345678" if line.startswith("CID=") else line for line in text.splitlines()))
    assert await in_thread(opened.fingerprint) != before
    descriptor.unlink()
    with pytest.raises(GateClosed):
        await in_thread(opened.fingerprint)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"encrypted": True}, "encrypted"),
        ({"kind": "sparse"}, "delta"),
        ({"chain": ("[DS1] a.vmdk", "[DS1] b.vmdk")}, "delta"),
    ],
)
async def test_what_is_not_a_whole_flat_disk_is_refused(
    folder: FolderAccess, changes: dict[str, object], reason: str
) -> None:
    refusal = HttpsTransport(folder).refusal(replace(VM, power="off"), disk("[DS1] a.vmdk", SIZE, **changes))
    assert refusal is not None
    assert reason in refusal


async def test_a_template_is_not_refused(folder: FolderAccess) -> None:
    assert HttpsTransport(folder).refusal(replace(VM, power="off", template=True), disk("[DS1] a.vmdk", SIZE)) is None


@pytest.mark.parametrize("file", ["../../secret", "/etc/passwd", "vsan://52c0"])
async def test_a_descriptor_that_names_no_file_of_the_datastore_is_refused(
    vcenter: SimulatedVCenter, vsphere: VSphere, folder: FolderAccess, file: str
) -> None:
    vm, disk = await off_vm(vcenter, vsphere)
    descriptor = vcenter.disks(vm.moref)[0].files[0]
    descriptor.write_text(descriptor.read_text().replace("web-flat.vmdk", file).replace("web/web", file))
    assert file in descriptor.read_text()
    with pytest.raises((DamagedImage, TransportUnavailable)):
        await in_thread(HttpsTransport(folder).open, vm, disk)
