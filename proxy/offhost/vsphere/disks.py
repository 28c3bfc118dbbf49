"""Virtual disks out of a list of vSphere's devices.

Owns: what a backing is, a disk's key and its unit. Pure: it is given devices that were read. Does not own: whether a
disk can be read (`snapshot.refusals`).
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pyVmomi import vim

from offhost.errors import VSphereError
from offhost.ids import DiskKey
from offhost.vsphere.values import Backing, BackingKind, Disk

_device = vim.vm.device
_Disk = vim.vm.device.VirtualDisk
_CHAIN_LIMIT = 256
"""vSphere allows 32 snapshots and 255 links; a longer chain is a loop."""


def disks(devices: Sequence[Any]) -> tuple[Disk, ...]:
    """The disks among a configuration's devices, ordered by unit.

    A disk's key is its UUID; of disks in one VM that share a UUID, as copies of one file do, it is the unit.
    """
    controllers = {device.key: device for device in devices if isinstance(device, _device.VirtualController)}
    found = [_disk(device, controllers) for device in devices if isinstance(device, _Disk)]
    times = Counter(disk.key for disk in found)
    unique = (disk if times[disk.key] == 1 else replace(disk, key=DiskKey(disk.unit)) for disk in found)
    return tuple(sorted(unique, key=lambda disk: disk.unit))


def bus_of(controller: object) -> str:
    """The bus of a controller as administrators write it, `scsi`."""
    match controller:
        case _device.VirtualSCSIController():
            return "scsi"
        case _device.VirtualIDEController():
            return "ide"
        case _device.VirtualAHCIController() | _device.VirtualSATAController():
            return "sata"
        case _device.VirtualNVMEController():
            return "nvme"
    return "bus"


def datastore_of(path: str) -> str:
    """The name of the datastore in `[name] folder/file`. Raises: VSphereError when it has no such form."""
    name, bracket, _ = path.removeprefix("[").partition("]")
    if not path.startswith("[") or not bracket or not name:
        raise VSphereError(f"not a path on a datastore: {path!r}")
    return name


def _disk(device: Any, controllers: Mapping[int, Any]) -> Disk:
    controller = controllers.get(device.controllerKey)
    unit = f"{bus_of(controller)}{getattr(controller, 'busNumber', 0)}:{device.unitNumber or 0}"
    label = str(device.deviceInfo.label) if device.deviceInfo else unit
    backing = _backing(device.backing, label)
    return Disk(
        key=DiskKey(backing.uuid or unit),
        device_key=int(device.key),
        label=label,
        unit=unit,
        bus_sharing=str(getattr(controller, "sharedBus", None) or "noSharing") != "noSharing",
        capacity_bytes=int(device.capacityInBytes or device.capacityInKB * 1024),
        change_id=getattr(device.backing, "changeId", None) or None,
        backing=backing,
    )


def _backing(backing: Any, label: str) -> Backing:
    chain = tuple(_chain(backing, label))
    uuid = getattr(backing, "uuid", None)
    return Backing(
        kind=_kind(backing),
        file=chain[0],
        chain=chain,
        datastore=datastore_of(chain[0]) if chain[0] else "",
        uuid=str(uuid).lower() if uuid else None,
        mode=str(getattr(backing, "diskMode", None) or "persistent"),
        multi_writer=getattr(backing, "sharing", None) == "sharingMultiWriter",
        encrypted=getattr(backing, "keyId", None) is not None,
        thin=bool(getattr(backing, "thinProvisioned", False)),
    )


def _chain(backing: Any, label: str) -> Iterator[str]:
    for _ in range(_CHAIN_LIMIT):
        yield str(getattr(backing, "fileName", None) or getattr(backing, "descriptorFileName", None) or "")
        backing = getattr(backing, "parent", None)
        if backing is None:
            return
    raise VSphereError(f"{label}: its chain of files has more than {_CHAIN_LIMIT} links")


def _kind(backing: Any) -> BackingKind:
    match backing:
        case _Disk.FlatVer2BackingInfo():
            return "flat"
        case _Disk.SparseVer2BackingInfo():
            return "sparse"
        case _Disk.SeSparseBackingInfo():
            return "sesparse"
        case _Disk.RawDiskMappingVer1BackingInfo():
            return "rdm_physical" if backing.compatibilityMode == "physicalMode" else "rdm_virtual"
        case _Disk.LocalPMemBackingInfo():
            return "pmem"
    return "other"
