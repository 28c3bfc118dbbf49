"""A saved configuration, made into a new VM: nothing of the old one's life comes along, nothing odd is fatal."""

import json
from typing import Any

import pytest
from pyVmomi import vim

from offhost.errors import UsageError
from offhost.ids import DiskKey
from offhost.vsphere.hardware import hardware, inherited, network_names
from offhost.vsphere.saved import save

device = vim.vm.device
Nic = device.VirtualEthernetCard
LAN = Nic.NetworkBackingInfo(deviceName="LAN")


def described(label: str) -> Any:
    """What administrators see."""
    return vim.Description(label=label, summary="")


DEVICES = [
    device.VirtualIDEController(key=200, busNumber=0, deviceInfo=described("IDE 0")),
    device.VirtualLsiLogicSASController(key=1000, busNumber=0, sharedBus="noSharing", deviceInfo=described("SCSI 0")),
    device.VirtualDisk(
        key=2000,
        controllerKey=1000,
        unitNumber=3,
        capacityInKB=1024,
        deviceInfo=described("Hard disk 1"),
        backing=device.VirtualDisk.FlatVer2BackingInfo(fileName="[DS1] web/web.vmdk", diskMode="persistent"),
    ),
    device.VirtualE1000e(
        key=4000,
        deviceInfo=described("Network adapter 1"),
        macAddress="00:50:56:aa:bb:cc",
        addressType="assigned",
        connectable=device.VirtualDevice.ConnectInfo(startConnected=True, connected=True, allowGuestControl=True),
        backing=Nic.NetworkBackingInfo(deviceName="LAN", network=vim.Network("network-7", None)),
    ),
    device.VirtualTPM(key=11000, deviceInfo=described("Virtual TPM")),
    device.VirtualUSBController(key=7000, busNumber=0, deviceInfo=described("USB controller")),
]
CONFIG = {
    "config.name": "web",
    "config.version": "vmx-14",
    "config.guestId": "debian11_64Guest",
    "config.uuid": "old-bios-uuid",
    "config.instanceUuid": "old-instance-uuid",
    "config.firmware": "efi",
    "config.annotation": "the shop",
    "config.bootOptions": vim.vm.BootOptions(efiSecureBootEnabled=True),
    "config.hardware.device": DEVICES,
    "config.hardware.memoryMB": 4096,
    "config.hardware.numCPU": 4,
    "config.hardware.numCoresPerSocket": 2,
    "config.memoryHotAddEnabled": True,
    "config.extraConfig": [
        vim.option.OptionValue(key="guestinfo.role", value="shop"),
        vim.option.OptionValue(key="ctkEnabled", value="TRUE"),
        vim.option.OptionValue(key="scsi0:3.ctkEnabled", value="TRUE"),
    ],
}
DISKS = {DiskKey("scsi0:3"): "[DS2] new/web.vmdk"}


def saved() -> dict[str, Any]:
    """As it comes back out of a repository."""
    loaded: dict[str, Any] = json.loads(json.dumps(save(CONFIG, {"folder": "/DC0/vm"}, {"network-7": "LAN"})))
    return loaded


def devices(spec: Any, kind: Any) -> list[Any]:
    """The devices of a kind that a specification adds."""
    return [change.device for change in spec.deviceChange if isinstance(change.device, kind)]


def test_the_settings_come_back() -> None:
    spec = hardware(saved(), DISKS, {"LAN": LAN}).spec
    assert (spec.memoryMB, spec.numCPUs, spec.numCoresPerSocket) == (4096, 4, 2)
    assert (spec.version, spec.guestId, spec.firmware, spec.annotation) == (
        "vmx-14",
        "debian11_64Guest",
        "efi",
        "the shop",
    )
    assert spec.bootOptions.efiSecureBootEnabled
    assert spec.memoryHotAddEnabled
    assert not spec.cpuHotAddEnabled


def test_a_disk_goes_back_to_its_controller_and_unit_with_its_new_file() -> None:
    spec = hardware(saved(), DISKS, {"LAN": LAN}).spec
    (controller,) = devices(spec, device.VirtualSCSIController)
    (disk,) = devices(spec, device.VirtualDisk)
    assert isinstance(controller, device.VirtualLsiLogicSASController)
    assert (disk.controllerKey, disk.unitNumber) == (controller.key, 3)
    assert disk.backing.fileName == "[DS2] new/web.vmdk"


def test_only_what_belongs_to_a_new_vm_is_inherited() -> None:
    spec = hardware(saved(), DISKS, {"LAN": LAN}).spec
    assert [(item.key, item.value) for item in spec.extraConfig] == [("guestinfo.role", "shop")]


@pytest.mark.parametrize(
    "key",
    [
        "ctkEnabled",
        "scsi0:0.ctkEnabled",
        "sched.swap.derivedName",
        "uuid.location",
        "uuid.bios",
        "vc.uuid",
        "nvram",
        "ethernet0.address",
        "snapshot.redoNotWithParent",
        "migrate.hostLog",
        "encryption.bundle",
        "vmxstats.filename",
    ],
)
def test_the_old_vms_own_settings_are_not_inherited(key: str) -> None:
    assert not inherited(key)


@pytest.mark.parametrize("key", ["guestinfo.role", "disk.EnableUUID", "mem.hotadd", "isolation.tools.copy.disable"])
def test_administrators_settings_are_inherited(key: str) -> None:
    assert inherited(key)


def test_a_new_vm_has_identities_of_its_own() -> None:
    spec = hardware(saved(), DISKS, {"LAN": LAN}).spec
    (nic,) = devices(spec, Nic)
    assert (spec.uuid, spec.instanceUuid, nic.macAddress, nic.addressType) == (None, None, None, "generated")


def test_a_network_card_keeps_its_kind() -> None:
    (nic,) = devices(hardware(saved(), DISKS, {"LAN": LAN}).spec, Nic)
    assert type(nic) is device.VirtualE1000e
    assert nic.backing is LAN
    assert nic.connectable is not None
    assert nic.connectable.startConnected


def test_a_card_without_a_network_is_left_out_and_said() -> None:
    built = hardware(saved(), DISKS, {})
    assert not devices(built.spec, Nic)
    assert any("Network adapter 1" in warning and "'LAN'" in warning for warning in built.warnings)


def test_devices_that_are_not_made_again_are_said_by_name() -> None:
    warnings = hardware(saved(), DISKS, {"LAN": LAN}).warnings
    assert [warning.partition(" (")[0] for warning in warnings] == ["Virtual TPM", "USB controller"]


def test_an_unknown_kind_of_device_becomes_an_ordinary_one_and_is_said() -> None:
    odd = saved()
    odd["nics"][0]["type"] = "VirtualVmxnet9"
    odd["controllers"][0]["type"] = "__class__"
    built = hardware(odd, DISKS, {"LAN": LAN})
    assert isinstance(devices(built.spec, Nic)[0], device.VirtualVmxnet3)
    assert isinstance(devices(built.spec, device.VirtualSCSIController)[0], device.ParaVirtualSCSIController)
    assert any("became a VirtualVmxnet3" in warning for warning in built.warnings)


def test_a_disk_whose_controller_is_not_saved_is_refused() -> None:
    torn = saved()
    torn["controllers"] = []
    with pytest.raises(UsageError, match="no such controller"):
        hardware(torn, DISKS, {"LAN": LAN})


def test_the_networks_are_named() -> None:
    assert network_names(saved()) == ["LAN"]
