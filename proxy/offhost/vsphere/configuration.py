"""The configuration of a VM, or of its snapshot: disks, and what is saved with a restore point.

Owns: which calls that takes. Devices are read here alone, for one VM at a time: their decoding is what costs.
"""

import re
from typing import Any

from pyVmomi import vim

from offhost.vsphere.disks import disks
from offhost.vsphere.inventory import plain_name
from offhost.vsphere.properties import Row, moref, properties
from offhost.vsphere.saved import CONFIG_PATHS, save
from offhost.vsphere.session import VSphere
from offhost.vsphere.soap import Live
from offhost.vsphere.values import Vm, VmConfiguration

_VERSION = re.compile(r"vmx-(\d{1,4})")


async def configuration(vsphere: VSphere, vm: Vm) -> VmConfiguration:
    """The VM's present configuration. Raises: VmGone."""
    return await _read(vsphere, vm, vim.VirtualMachine, ref=vm.moref, doing=f"reading the configuration of {vm.name}")


async def snapshot_configuration(vsphere: VSphere, vm: Vm, snapshot: str) -> VmConfiguration:
    """The configuration that a snapshot froze: its disks name the files that hold the frozen state.

    Raises: VmGone when the snapshot has been removed.
    """
    return await _read(
        vsphere, vm, vim.vm.Snapshot, ref=snapshot, doing=f"reading the snapshot {snapshot} of {vm.name}"
    )


async def _read(vsphere: VSphere, vm: Vm, kind: Any, *, ref: str, doing: str) -> VmConfiguration:
    def call(live: Live) -> VmConfiguration:
        config = properties(live, kind, [live.object(kind, ref)], CONFIG_PATHS)[ref]
        return _configuration(config, *_surroundings(live, vm))

    return await vsphere.read(call, doing)


def _configuration(config: Row, place: dict[str, object], network_names: dict[str, str]) -> VmConfiguration:
    version = _VERSION.fullmatch(str(config["config.version"]))
    return VmConfiguration(
        name=plain_name(str(config["config.name"])),
        vmx_path=str(config["config.files.vmPathName"]),
        hardware_version=int(version[1]) if version else 0,
        guest_id=str(config["config.guestId"]),
        disks=disks(config["config.hardware.device"]),
        saved=save(config, place, network_names),
    )


def _surroundings(live: Live, vm: Vm) -> tuple[dict[str, object], dict[str, str]]:
    """Where the VM lies, and the names of its networks by moref: of the VM as it is, snapshots know neither."""
    paths = ["resourcePool", "network", "customValue", "availableField"]
    row = properties(live, vim.VirtualMachine, [live.vm(vm.moref)], paths)[vm.moref]
    networks = {
        ref: str(found["name"])
        for ref, found in properties(live, vim.Network, row.get("network", []), ["name"]).items()
    }
    place: dict[str, object] = {
        "folder": vm.folder,
        "host": vm.host,
        "resource_pool": _pool(live, row.get("resourcePool")),
        "custom_attributes": _custom_attributes(row),
    }
    return place, networks


def _pool(live: Live, pool: Any) -> dict[str, object] | None:
    """A template has none."""
    if pool is None:
        return None
    return {"id": moref(pool), "name": str(properties(live, vim.ResourcePool, [pool], ["name"])[moref(pool)]["name"])}


def _custom_attributes(row: Row) -> dict[str, str]:
    names = {field.key: str(field.name) for field in row.get("availableField", ())}
    return {
        names.get(item.key, str(item.key)): str(item.value)
        for item in row.get("customValue", ())
        if getattr(item, "value", None) is not None
    }
