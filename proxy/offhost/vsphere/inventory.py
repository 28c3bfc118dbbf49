"""Which VMs and datastores there are, and which of them a name means.

Owns: listing that stays cheap at thousands of VMs (no devices), inventory paths, the choice by name.
Does not own: devices and disks (`configuration`).
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import unquote

from pyVmomi import vim

from offhost.errors import NotFound, VmGone, VSphereError
from offhost.ids import vm_id
from offhost.vsphere.properties import Row, all_of, moref, properties
from offhost.vsphere.session import VSphere
from offhost.vsphere.soap import Live
from offhost.vsphere.values import Datastore, PowerState, Vm

_POWER: dict[str, PowerState] = {"poweredOn": "on", "poweredOff": "off", "suspended": "suspended"}
_STATE_PATHS = (
    "name",
    "config.instanceUuid",
    "config.template",
    "config.changeTrackingEnabled",
    "runtime.powerState",
    "runtime.consolidationNeeded",
)
_VM_PATHS = (*_STATE_PATHS, "parent", "parentVApp", "datastore", "runtime.host")
_DATASTORE_PATHS = (
    "summary.name",
    "summary.url",
    "summary.type",
    "summary.capacity",
    "summary.freeSpace",
    "summary.accessible",
)
_CANDIDATES_SHOWN = 10


def plain_name(name: str) -> str:
    """A name as people read it: vSphere writes slash, backslash and percent sign as `%2f`, `%5c` and `%25`."""
    return unquote(name)


def escaped_name(name: str) -> str:
    """A name as vSphere takes it."""
    return name.replace("%", "%25").replace("/", "%2f").replace("\\", "%5c")


def power_state(state: object) -> PowerState:
    """A power state of vSphere in our words."""
    return _POWER[str(state)]


async def vms(vsphere: VSphere) -> list[Vm]:
    """Every VM and template, ordered by folder and name.

    A VM without a configuration (orphaned, inaccessible, just being created) has no identity and is left out.
    """
    rows = await vsphere.read(
        lambda live: all_of(
            live,
            {
                vim.VirtualMachine: _VM_PATHS,
                vim.Folder: ["name", "parent"],
                vim.Datacenter: ["name", "parent"],
                vim.VirtualApp: ["name", "parentFolder"],
                vim.HostSystem: ["name"],
                vim.Datastore: ["name"],
            },
        ),
        "listing the inventory",
    )
    found = [_vm(ref, row, rows, vsphere) for ref, row in rows.items() if "config.instanceUuid" in row]
    return _with_twins(sorted(found, key=lambda vm: (vm.folder, vm.name, vm.moref)))


async def as_it_is_now(vsphere: VSphere, vm: Vm) -> Vm:
    """A VM that was listed a while ago: its name, power state and the like anew; its place is that of before.

    One whose moref is gone is looked for by its identity: it may have been registered anew.
    Raises: VmGone; VSphereError when several VMs bear its identity.
    """
    try:
        row = await vsphere.read(
            lambda live: properties(live, vim.VirtualMachine, [live.vm(vm.moref)], _STATE_PATHS)[vm.moref],
            f"looking {vm.name} up",
        )
    except VmGone:
        again = [one for one in await vms(vsphere) if one.id == vm.id]
        if not again:
            raise
        refuse_twins(again[0])
        return again[0]
    if "config.instanceUuid" not in row:
        raise VSphereError(f"{vm.name}: vSphere has no configuration of it just now: it is inaccessible or orphaned")
    present = replace(vm, **_state(row, vsphere))
    if present.id != vm.id:
        raise VmGone(
            f"{vm.name}: another VM is in its place: its instance UUID is not {vm.id.rpartition('/')[2]} any more"
        )
    return present


def refuse_twins(vm: Vm) -> None:
    """Raise VSphereError, naming all, when other VMs bear the same identity: their backups would be one history."""
    if vm.twins:
        others = ", ".join(vm.twins)
        raise VSphereError(
            f"{vm.folder}/{vm.name} has the same instance UUID as {others}",
            hint="give one of them another instance UUID, or take the copy out of the inventory",
        )


async def find(vsphere: VSphere, name_or_id: str) -> Vm:
    """The one VM that a name, an inventory path, a moref, an instance UUID or an identity means.

    Raises: NotFound when none does, or several do; the message lists the candidates.
    """
    return choose(await vms(vsphere), name_or_id)


def choose(candidates: Sequence[Vm], name_or_id: str) -> Vm:
    """As `find`, among VMs that were listed before: an id wins over a name, and a name must be the only one."""
    meant = [vm for vm in candidates if name_or_id in _ids(vm)] or [vm for vm in candidates if vm.name == name_or_id]
    if len(meant) == 1:
        return meant[0]
    if not meant:
        raise NotFound(f"there is no VM {name_or_id!r}", hint="`offhost vms list` shows the inventory")
    shown = ", ".join(f"{vm.folder}/{vm.name} ({vm.id})" for vm in meant[:_CANDIDATES_SHOWN])
    raise NotFound(f"{len(meant)} VMs are named {name_or_id!r}: {shown}", hint="use one of the paths or identities")


async def datastores(vsphere: VSphere) -> list[Datastore]:
    """Every datastore with its space as vSphere last measured it."""
    rows = await vsphere.read(lambda live: all_of(live, {vim.Datastore: _DATASTORE_PATHS}), "listing the datastores")
    return [_datastore(ref, row) for ref, row in rows.items()]


async def datastores_of(vsphere: VSphere, vm: Vm) -> list[Datastore]:
    """The datastores that a VM's files lie on."""

    def call(live: Live) -> list[Datastore]:
        stores = properties(live, vim.VirtualMachine, [live.vm(vm.moref)], ["datastore"])[vm.moref].get("datastore", [])
        return [_datastore(*found) for found in properties(live, vim.Datastore, stores, _DATASTORE_PATHS).items()]

    return await vsphere.read(call, f"reading the datastores of {vm.name}")


def inventory_path(ref: Any, rows: Mapping[str, Row]) -> str:
    """The path of a folder, as administrators read it: `/DC0/vm/Production`, without the root folder's name."""
    return "".join(f"/{name}" for name in reversed(list(_names_upwards(ref, rows))))


def _names_upwards(ref: Any, rows: Mapping[str, Row]) -> Iterator[str]:
    """Names from a folder to below the root folder, which is the one that the inventory view does not list."""
    seen: set[str] = set()
    while ref is not None and moref(ref) in rows and moref(ref) not in seen:
        seen.add(moref(ref))
        row = rows[moref(ref)]
        yield str(row.get("name", ""))
        ref = row.get("parent") or row.get("parentFolder")


def _ids(vm: Vm) -> tuple[str, ...]:
    return (vm.moref, vm.id, vm.id.rpartition("/")[2], f"{vm.folder}/{vm.name}")


def _with_twins(found: list[Vm]) -> list[Vm]:
    by_id: dict[str, list[Vm]] = defaultdict(list)
    for vm in found:
        by_id[vm.id].append(vm)
    return [
        replace(vm, twins=tuple(f"{twin.folder}/{twin.name}" for twin in by_id[vm.id] if twin is not vm))
        if len(by_id[vm.id]) > 1
        else vm
        for vm in found
    ]


def _vm(ref: str, row: Row, rows: Mapping[str, Row], vsphere: VSphere) -> Vm:
    host = row.get("runtime.host")
    return Vm(
        moref=ref,
        folder=inventory_path(row.get("parent") or row.get("parentVApp"), rows),
        host=str(rows.get(moref(host), {}).get("name", "")) if host is not None else "",
        datastores=tuple(
            sorted(str(rows[moref(one)]["name"]) for one in row.get("datastore", ()) if moref(one) in rows)
        ),
        **_state(row, vsphere),
    )


def _state(row: Row, vsphere: VSphere) -> dict[str, Any]:
    """What is told of a VM by itself, as fields of `Vm`."""
    return {
        "id": vm_id(vsphere.about.instance_uuid, str(row["config.instanceUuid"])),
        "name": plain_name(str(row["name"])),
        "power": power_state(row["runtime.powerState"]),
        "template": bool(row.get("config.template")),
        "change_tracking": bool(row.get("config.changeTrackingEnabled")),
        "consolidation_needed": bool(row.get("runtime.consolidationNeeded")),
    }


def _datastore(ref: str, row: Row) -> Datastore:
    return Datastore(
        moref=ref,
        name=str(row["summary.name"]),
        url=str(row["summary.url"]),
        kind=str(row["summary.type"]),
        capacity_bytes=int(row["summary.capacity"]),
        free_bytes=int(row["summary.freeSpace"]),
        accessible=bool(row["summary.accessible"]),
    )
