"""A new VM out of a saved configuration and disks that are there already: the last step of a restore.

Owns: making and ending VMs, directories on datastores. Does not own: the devices (`hardware`), the choice of a place
(`placement`), writing the disks (`transport`).
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pyVmomi import vim

from offhost.errors import VSphereError
from offhost.ids import DiskKey
from offhost.vsphere.disks import datastore_of
from offhost.vsphere.hardware import hardware, network_names
from offhost.vsphere.inventory import escaped_name, find
from offhost.vsphere.placement import choose_place, datacenter_of, network_backings, places
from offhost.vsphere.properties import moref
from offhost.vsphere.session import VSphere
from offhost.vsphere.soap import Live
from offhost.vsphere.tags import attach_tags
from offhost.vsphere.tasks import finished
from offhost.vsphere.values import Vm

_NO_FILE_NAME = re.compile(r"[/\\%\x00-\x1f]")


@dataclass(frozen=True, slots=True)
class Created:
    """A VM that was made, powered off, and what of the saved configuration could not be made again."""

    vm: Vm
    warnings: tuple[str, ...]


async def create_vm(
    vsphere: VSphere,
    saved: Mapping[str, Any],
    *,
    name: str,
    directory: str,
    disks: Mapping[DiskKey, str],
    folder: str | None = None,
    nvram: str | None = None,
) -> Created:
    """Make a VM of a saved configuration, powered off.

    `directory`: where its .vmx goes, `[datastore] folder`, which exists. `disks`: for each disk's key the file on a
    datastore that becomes it. `folder`: the inventory path, by default that of the saved VM, else the datacenter's
    own. `nvram`: the name of a file in `directory`.
    Change tracking, swap places and identities of the old VM, its MAC addresses among them, are not taken over.
    Raises: NotFound when the given folder is not there; UsageError; VSphereError.
    """
    doing = f"making the VM {name}"
    rows = await vsphere.read(places, doing)
    place = choose_place(rows, datastore_of(directory), folder, saved)
    built = hardware(saved, disks, network_backings(rows, network_names(saved)))
    built.spec.name = escaped_name(name)
    built.spec.files = vim.vm.FileInfo(vmPathName=f"{directory.rstrip('/')}/{_NO_FILE_NAME.sub('_', name)}.vmx")
    if nvram:
        built.spec.extraConfig.append(vim.option.OptionValue(key="nvram", value=nvram))

    def start(live: Live) -> Any:
        pool = live.object(vim.ResourcePool, place.pool)
        return live.object(vim.Folder, place.folder).CreateVm(built.spec, pool, None)

    vm = await find(vsphere, moref(await finished(vsphere, start, doing, name)))
    described = await _describe(vsphere, vm, saved)
    return Created(vm, (*place.warnings, *built.warnings, *described))


async def _describe(vsphere: VSphere, vm: Vm, saved: Mapping[str, Any]) -> list[str]:
    """Put custom attributes and tags on a new VM; returns what could not be put, as warnings."""
    warnings = await attach_tags(vsphere, vm, saved.get("tags") or [])
    for name, value in sorted((saved.get("custom_attributes") or {}).items()):
        try:
            await vsphere.change(
                _set_attribute(vm, str(name), str(value)), f"setting the attribute {name} of {vm.name}", vm
            )
        except VSphereError as error:
            warnings.append(f"{vm.name}: the custom attribute {name} was not set: {error}")
    return warnings


def _set_attribute(vm: Vm, name: str, value: str) -> Callable[[Live], None]:
    return lambda live: live.vm(vm.moref).SetCustomValue(name, value)


async def unregister_vm(vsphere: VSphere, vm: Vm) -> None:
    """Take a VM, which must be powered off, out of the inventory; its files stay."""
    await vsphere.change(lambda live: live.vm(vm.moref).Unregister(), f"unregistering the VM {vm.name}", vm)


async def destroy_vm(vsphere: VSphere, vm: Vm) -> None:
    """Delete a VM, which must be powered off, with all its files."""
    await finished(vsphere, lambda live: live.vm(vm.moref).Destroy(), f"deleting the VM {vm.name}", vm)


async def make_directory(vsphere: VSphere, path: str) -> None:
    """Make a directory `[datastore] folder`. Raises: Conflict when it is there already; VSphereError."""
    datacenter = await _datacenter(vsphere, path)

    def call(live: Live) -> None:
        files = live.content.fileManager
        assert files is not None, "every vSphere endpoint has a file manager"
        files.MakeDirectory(path, live.object(vim.Datacenter, datacenter), False)

    await vsphere.change(call, f"making the directory {path}", path)


async def delete_path(vsphere: VSphere, path: str) -> None:
    """Delete a file, or a directory with all that is in it, from a datastore."""
    datacenter = await _datacenter(vsphere, path)

    def start(live: Live) -> Any:
        files = live.content.fileManager
        assert files is not None, "every vSphere endpoint has a file manager"
        return files.DeleteFile(path, live.object(vim.Datacenter, datacenter))

    await finished(vsphere, start, f"deleting {path}", path)


async def _datacenter(vsphere: VSphere, path: str) -> str:
    rows = await vsphere.read(places, f"looking where {path} lies")
    return datacenter_of(rows, datastore_of(path))
