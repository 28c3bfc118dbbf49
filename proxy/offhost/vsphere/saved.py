"""A VM's configuration as the JSON that is kept with its restore point.

Owns: the shape of `VmConfiguration.saved` (`FORMAT`), from vSphere's objects. Its inverse is `registration`.
What is kept is what a new VM needs, and what people look up; devices that are not made again are listed by name.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pyVmomi import vim

from offhost.vsphere.disks import bus_of, disks
from offhost.vsphere.inventory import plain_name
from offhost.vsphere.properties import Row, moref

FORMAT = 1
_device = vim.vm.device
_Nic = vim.vm.device.VirtualEthernetCard

CONFIG_PATHS = (
    "config.name",
    "config.files.vmPathName",
    "config.version",
    "config.guestId",
    "config.uuid",
    "config.instanceUuid",
    "config.keyId",
    "config.firmware",
    "config.annotation",
    "config.bootOptions",
    "config.extraConfig",
    "config.hardware.device",
    "config.hardware.memoryMB",
    "config.hardware.numCPU",
    "config.hardware.numCoresPerSocket",
    "config.memoryHotAddEnabled",
    "config.cpuHotAddEnabled",
    "config.nestedHVEnabled",
)
"""What is read of a VM's configuration, or of a snapshot's."""

_SELF_MADE = (
    _device.VirtualIDEController,
    _device.VirtualPS2Controller,
    _device.VirtualPCIController,
    _device.VirtualSIOController,
    _device.VirtualKeyboard,
    _device.VirtualPointingDevice,
    _device.VirtualVideoCard,
    _device.VirtualVMCIDevice,
)
"""What every new VM has of itself."""
_MADE_AGAIN = (
    _device.VirtualDisk,
    _Nic,
    _device.VirtualSCSIController,
    _device.VirtualSATAController,
    _device.VirtualNVMEController,
)


def save(config: Row, place: Mapping[str, object], network_names: Mapping[str, str]) -> dict[str, object]:
    """The configuration as JSON values; `place` is where the VM lies, `network_names` are by moref."""
    devices = config["config.hardware.device"]
    return {
        "format": FORMAT,
        "name": plain_name(str(config["config.name"])),
        "uuid": _text(config, "config.uuid"),
        "instance_uuid": _text(config, "config.instanceUuid"),
        "hardware_version": str(config["config.version"]),
        "guest_id": str(config["config.guestId"]),
        "firmware": _text(config, "config.firmware") or "bios",
        "annotation": _text(config, "config.annotation") or "",
        "memory_mib": int(config["config.hardware.memoryMB"]),
        "cpus": int(config["config.hardware.numCPU"]),
        "cores_per_socket": int(config.get("config.hardware.numCoresPerSocket") or 1),
        "memory_hot_add": bool(config.get("config.memoryHotAddEnabled")),
        "cpu_hot_add": bool(config.get("config.cpuHotAddEnabled")),
        "nested_virtualisation": bool(config.get("config.nestedHVEnabled")),
        "secure_boot": bool(getattr(config.get("config.bootOptions"), "efiSecureBootEnabled", None)),
        "encryption_key": _key_id(config.get("config.keyId")),
        "controllers": [_controller(device) for device in devices if isinstance(device, _MADE_AGAIN[2:])],
        "disks": _disks(devices),
        "nics": [_nic(device, network_names) for device in devices if isinstance(device, _Nic)],
        "other_devices": [_named(device) for device in devices if not isinstance(device, _SELF_MADE + _MADE_AGAIN)],
        "extra_config": {str(item.key): str(item.value) for item in config.get("config.extraConfig", ())},
        **place,
    }


def kind_of(device: object) -> str:
    """The name of a device's class in the API, `VirtualVmxnet3`."""
    return type(device).__name__.rpartition(".")[2]


def label_of(device: Any) -> str:
    """What administrators see, `Network adapter 1`."""
    return str(device.deviceInfo.label) if device.deviceInfo else kind_of(device)


def _text(config: Row, path: str) -> str | None:
    value = config.get(path)
    return None if value is None else str(value)


def _named(device: Any) -> dict[str, object]:
    return {"type": kind_of(device), "label": label_of(device)}


def _controller(device: Any) -> dict[str, object]:
    sharing = getattr(device, "sharedBus", None)
    return {
        **_named(device),
        "bus": bus_of(device),
        "bus_number": int(device.busNumber),
        "sharing": None if sharing is None else str(sharing),
    }


def _disks(devices: Sequence[Any]) -> list[dict[str, object]]:
    return [
        {
            "key": disk.key,
            "label": disk.label,
            "unit": disk.unit,
            "capacity_bytes": disk.capacity_bytes,
            "mode": disk.backing.mode,
            "thin": disk.backing.thin,
            "file": disk.backing.file,
        }
        for disk in disks(devices)
    ]


def _nic(device: Any, network_names: Mapping[str, str]) -> dict[str, object]:
    network_id = _network_id(device.backing)
    name = network_names.get(network_id or "") or getattr(device.backing, "deviceName", None) or ""
    connectable = device.connectable
    return {
        **_named(device),
        "network": {"id": network_id, "name": str(name)},
        "mac": str(device.macAddress or ""),
        "mac_type": str(device.addressType or ""),
        "start_connected": bool(connectable is None or connectable.startConnected),
    }


def _network_id(backing: Any) -> str | None:
    match backing:
        case _Nic.NetworkBackingInfo() if backing.network is not None:
            return moref(backing.network)
        case _Nic.DistributedVirtualPortBackingInfo():
            return str(backing.port.portgroupKey or "")
        case _Nic.OpaqueNetworkBackingInfo():
            return str(backing.opaqueNetworkId)
    return None


def _key_id(key: Any) -> dict[str, object] | None:
    """Which key encrypts the VM, so that people know what its restore needs."""
    if key is None:
        return None
    return {"key": str(key.keyId), "provider": str(key.providerId.id) if key.providerId else None}
