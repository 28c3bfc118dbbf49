"""A saved configuration as the specification of a new VM.

Owns: the inverse of `saved`: which devices are made again, which settings a new VM must not inherit. Pure. Nothing
odd is fatal: what cannot be made again is left out and said. Does not own: where the VM goes (`registration`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pyVmomi import vim

from offhost.errors import UsageError
from offhost.ids import DiskKey
from offhost.vsphere.saved import FORMAT

_device = vim.vm.device
_Nic = vim.vm.device.VirtualEthernetCard

_SCSI = (
    "ParaVirtualSCSIController",
    "VirtualLsiLogicController",
    "VirtualLsiLogicSASController",
    "VirtualBusLogicController",
)
_CONTROLLERS = (*_SCSI, "VirtualAHCIController", "VirtualNVMEController")
_NICS = ("VirtualVmxnet3", "VirtualVmxnet2", "VirtualVmxnet", "VirtualE1000e", "VirtualE1000", "VirtualPCNet32")
_DEFAULT_SCSI = "ParaVirtualSCSIController"
_DEFAULT_NIC = "VirtualVmxnet3"
_FIRST_IDE_KEY = 200
"""Every VM has the IDE controllers 200 and 201."""

_NOT_INHERITED = (
    "ctkenabled",
    "sched.swap.",
    "uuid.",
    "vc.uuid",
    "nvram",
    "snapshot.",
    "checkpoint.",
    "scsi",
    "sata",
    "nvme",
    "ide",
    "ethernet",
    "pcibridge",
    "migrate.",
    "vmotion.",
    "vmxstats.",
    "monitor.",
    "numa.autosize.",
    "guestos.detailed.",
    "guestinfo.vmtools.",
    "tools.remindinstall",
    "toolsinstallmanager.",
    "answer.",
    "cleanshutdown",
    "softpoweroff",
    "encryption.",
    "vmware.tools.",
    "svga.",
    "hpet0.",
)
"""What a VM's own life wrote into its settings: change tracking, swap files, identities, places, device slots."""


@dataclass(slots=True)
class Hardware:
    """The specification so far, and what could not be made again."""

    spec: Any
    warnings: list[str] = field(default_factory=list)


def hardware(saved: Mapping[str, Any], disks: Mapping[DiskKey, str], networks: Mapping[str, Any]) -> Hardware:
    """A ConfigSpec without name and place.

    `disks`: the existing files to attach, by key; disks without one are left out. `networks`: for each network name
    in `saved`, the backing of the network to connect to.
    Raises: UsageError when `saved` is of a newer offhost.
    """
    if saved.get("format") != FORMAT:
        raise UsageError(f"the saved configuration is of format {saved.get('format')!r}, this offhost reads {FORMAT}")
    built = Hardware(_settings(saved))
    keys = _add_controllers(built, saved)
    _add_disks(built, saved, disks, keys)
    _add_nics(built, saved, networks)
    built.warnings.extend(_not_made(device) for device in saved.get("other_devices", ()))
    if key := saved.get("encryption_key"):
        built.warnings.append(
            f"the VM was encrypted with the key {key['key']} of the provider {key['provider']} and the new one is in "
            "the clear; give it its encryption policy again"
        )
    return built


def _not_made(device: Mapping[str, Any]) -> str:
    said = f"{device.get('label')} ({device.get('type')}) is not made again"
    if device.get("type") == "VirtualTPM":
        said += "; add a new one, and have the recovery key of what was sealed with the old one, such as BitLocker's"
    return said


def _settings(saved: Mapping[str, Any]) -> Any:
    return vim.vm.ConfigSpec(
        version=saved["hardware_version"],
        guestId=saved["guest_id"],
        firmware=saved["firmware"],
        annotation=saved["annotation"],
        memoryMB=int(saved["memory_mib"]),
        numCPUs=int(saved["cpus"]),
        numCoresPerSocket=int(saved["cores_per_socket"]),
        memoryHotAddEnabled=bool(saved["memory_hot_add"]),
        cpuHotAddEnabled=bool(saved["cpu_hot_add"]),
        nestedHVEnabled=bool(saved["nested_virtualisation"]),
        bootOptions=vim.vm.BootOptions(efiSecureBootEnabled=True) if saved.get("secure_boot") else None,
        extraConfig=[
            vim.option.OptionValue(key=key, value=value)
            for key, value in sorted(saved.get("extra_config", {}).items())
            if inherited(key)
        ],
        deviceChange=[],
    )


def inherited(key: str) -> bool:
    """Whether a setting of the old VM belongs to a new one as well."""
    return not key.lower().startswith(_NOT_INHERITED)


def _add_controllers(built: Hardware, saved: Mapping[str, Any]) -> dict[str, int]:
    """The controllers' device keys by bus and number, `scsi0`."""
    keys = {"ide0": _FIRST_IDE_KEY, "ide1": _FIRST_IDE_KEY + 1}
    for at, controller in enumerate(saved.get("controllers", ())):
        kind = controller["type"]
        if kind not in _CONTROLLERS:
            built.warnings.append(f"{controller['label']} ({kind}) became a {_DEFAULT_SCSI}")
            kind = _DEFAULT_SCSI
        made = getattr(_device, kind)(key=-100 - at, busNumber=int(controller["bus_number"]))
        if kind in _SCSI:
            made.sharedBus = controller.get("sharing") or "noSharing"
        keys[f"{controller['bus']}{controller['bus_number']}"] = made.key
        _add(built, made)
    return keys


def _add_disks(
    built: Hardware, saved: Mapping[str, Any], files: Mapping[DiskKey, str], controllers: Mapping[str, int]
) -> None:
    for at, disk in enumerate(saved.get("disks", ())):
        file = files.get(DiskKey(disk["key"]))
        bus, _, unit = str(disk["unit"]).partition(":")
        if file is None:
            built.warnings.append(f"{disk['label']} is not in the restore point and is left out")
            continue
        if bus not in controllers:
            raise UsageError(f"{disk['label']} is at {disk['unit']}, and the configuration has no such controller")
        backing = _device.VirtualDisk.FlatVer2BackingInfo(fileName=file, diskMode=disk["mode"])
        _add(
            built,
            _device.VirtualDisk(
                key=-200 - at,
                controllerKey=controllers[bus],
                unitNumber=int(unit),
                capacityInKB=int(disk["capacity_bytes"]) // 1024,
                backing=backing,
            ),
        )


def _add_nics(built: Hardware, saved: Mapping[str, Any], networks: Mapping[str, Any]) -> None:
    for at, nic in enumerate(saved.get("nics", ())):
        name, kind = str(nic["network"]["name"]), nic["type"]
        backing = networks.get(name)
        if backing is None:
            built.warnings.append(f"{nic['label']} is left out: there is no network {name!r} to connect it to")
            continue
        if kind not in _NICS:
            built.warnings.append(f"{nic['label']} ({kind}) became a {_DEFAULT_NIC}")
            kind = _DEFAULT_NIC
        made = getattr(_device, kind)(key=-300 - at, backing=backing, addressType="generated")
        made.connectable = _device.VirtualDevice.ConnectInfo(
            startConnected=bool(nic["start_connected"]), allowGuestControl=True, connected=False
        )
        _add(built, made)


def _add(built: Hardware, device: Any) -> None:
    built.spec.deviceChange.append(_device.VirtualDeviceSpec(operation="add", device=device))


def network_names(saved: Mapping[str, Any]) -> Sequence[str]:
    """The names of the networks that the saved VM was connected to."""
    return sorted({str(nic["network"]["name"]) for nic in saved.get("nics", ())})
