"""Disks as vSphere's devices describe them."""

from typing import Any

import pytest
from pyVmomi import vim

from offhost.errors import VSphereError
from offhost.vsphere.disks import datastore_of, disks

device = vim.vm.device
VirtualDisk = device.VirtualDisk
FILE = "[DS 1] web/web.vmdk"


def flat(file: str = FILE, **more: Any) -> Any:
    """A flat backing."""
    return VirtualDisk.FlatVer2BackingInfo(fileName=file, diskMode="persistent", **more)


def disk(backing: Any, *, unit: int = 0, controller: int = 1000, **more: Any) -> Any:
    """A disk on a controller."""
    described = vim.Description(label=f"Hard disk {unit + 1}", summary="")
    return VirtualDisk(
        key=2000 + unit,
        controllerKey=controller,
        unitNumber=unit,
        deviceInfo=described,
        capacityInKB=1024,
        backing=backing,
        **more,
    )


SCSI = device.ParaVirtualSCSIController(key=1000, busNumber=0, sharedBus="noSharing")


def test_a_disk_is_known_by_its_uuid() -> None:
    (found,) = disks([SCSI, disk(flat(uuid="6000C29A-1B", changeId="52 aa/7"))])
    assert (found.key, found.unit, found.label) == ("6000c29a-1b", "scsi0:0", "Hard disk 1")
    assert (found.change_id, found.capacity_bytes, found.backing.datastore) == ("52 aa/7", 1 << 20, "DS 1")


def test_a_disk_without_uuid_is_known_by_its_unit() -> None:
    (found,) = disks([SCSI, disk(flat())])
    assert found.key == "scsi0:0"


def test_disks_that_share_a_uuid_are_known_by_their_units() -> None:
    found = disks([SCSI, disk(flat(uuid="x")), disk(flat(uuid="x"), unit=1), disk(flat(uuid="y"), unit=2)])
    assert [one.key for one in found] == ["scsi0:0", "scsi0:1", "y"]


@pytest.mark.parametrize(
    ("controller", "unit"),
    [
        (device.VirtualLsiLogicController(key=1000, busNumber=1, sharedBus="noSharing"), "scsi1:0"),
        (device.VirtualAHCIController(key=1000, busNumber=0), "sata0:0"),
        (device.VirtualNVMEController(key=1000, busNumber=2), "nvme2:0"),
        (device.VirtualIDEController(key=1000, busNumber=1), "ide1:0"),
    ],
)
def test_the_unit_names_bus_and_place(controller: Any, unit: str) -> None:
    (found,) = disks([controller, disk(flat())])
    assert found.unit == unit


def test_the_chain_is_from_the_top_to_the_base() -> None:
    (found,) = disks(
        [SCSI, disk(flat("[DS 1] web/web-000002.vmdk", parent=flat("[DS 1] web/web-000001.vmdk", parent=flat())))]
    )
    assert found.backing.chain == ("[DS 1] web/web-000002.vmdk", "[DS 1] web/web-000001.vmdk", FILE)
    assert found.backing.file == "[DS 1] web/web-000002.vmdk"


def test_a_chain_without_end_is_refused() -> None:
    loop = flat()
    loop.parent = loop
    with pytest.raises(VSphereError, match="links"):
        disks([SCSI, disk(loop)])


@pytest.mark.parametrize(
    ("backing", "kind"),
    [
        (flat(), "flat"),
        (VirtualDisk.SparseVer2BackingInfo(fileName=FILE, diskMode="persistent"), "sparse"),
        (VirtualDisk.SeSparseBackingInfo(fileName=FILE, diskMode="persistent"), "sesparse"),
        (VirtualDisk.RawDiskMappingVer1BackingInfo(fileName=FILE, compatibilityMode="physicalMode"), "rdm_physical"),
        (VirtualDisk.RawDiskMappingVer1BackingInfo(fileName=FILE, compatibilityMode="virtualMode"), "rdm_virtual"),
        (VirtualDisk.LocalPMemBackingInfo(fileName=FILE, diskMode="persistent"), "pmem"),
        (VirtualDisk.FlatVer1BackingInfo(fileName=FILE, diskMode="persistent"), "other"),
        (VirtualDisk.RawDiskVer2BackingInfo(descriptorFileName=FILE, deviceName="/dev/x"), "other"),
    ],
)
def test_backings_are_told_apart(backing: Any, kind: str) -> None:
    (found,) = disks([SCSI, disk(backing)])
    assert (found.backing.kind, found.backing.file) == (kind, FILE)


def test_what_keeps_a_disk_from_being_read_is_seen() -> None:
    key = vim.encryption.CryptoKeyId(keyId="k")
    shared = device.VirtualLsiLogicController(key=1000, busNumber=0, sharedBus="physicalSharing")
    (found,) = disks([shared, disk(flat(sharing="sharingMultiWriter", keyId=key))])
    assert found.bus_sharing
    assert found.backing.multi_writer
    assert found.backing.encrypted


@pytest.mark.parametrize("path", ["web/web.vmdk", "[]x", "[DS1", "", "/vmfs/volumes/x"])
def test_what_is_no_datastore_path_is_refused(path: str) -> None:
    with pytest.raises(VSphereError, match="not a path on a datastore"):
        datastore_of(path)
