"""Which VMs and datastores there are, and which of them a name means.

Owns: listing that stays cheap at thousands of VMs (no devices), the places VMs lie in, the choice by name.
Does not own: devices and disks (`configuration`).
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast
from urllib.parse import unquote

from pyVmomi import vim

from offhost.errors import NotFound, VmGone, VSphereError
from offhost.ids import vm_id
from offhost.vsphere.marker import made_for
from offhost.vsphere.properties import SELF, Row, all_of, moref, properties
from offhost.vsphere.session import VSphere
from offhost.vsphere.soap import Live
from offhost.vsphere.values import Connection, Datastore, PowerState, Stray, Vm

_POWER: dict[str, PowerState] = {"poweredOn": "on", "poweredOff": "off", "suspended": "suspended"}
_STATE_PATHS = (
    "name",
    "config.instanceUuid",
    "config.template",
    "config.changeTrackingEnabled",
    "runtime.powerState",
    "runtime.consolidationNeeded",
    "runtime.connectionState",
)
_VM_PATHS = (
    *_STATE_PATHS,
    "parent",
    "parentVApp",
    "resourcePool",
    "datastore",
    "runtime.host",
    "customValue",
    "config.annotation",
)
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


@dataclass(frozen=True, slots=True)
class Listing:
    """Every VM and template that the account may see, ordered by folder and name."""

    vms: list[Vm]
    strays: list[Stray]


async def listing(vsphere: VSphere) -> Listing:
    """Everything of the inventory that VMs are chosen by, but tags; a handful of calls, however many VMs there are."""
    rows, attributes = await vsphere.read(_everything, "listing the inventory")
    of_kind = {ref: row for ref, row in rows.items() if isinstance(row[SELF], vim.VirtualMachine)}
    known = [_vm(row, rows, attributes, vsphere) for row in of_kind.values() if "config.instanceUuid" in row]
    strays = [_stray(row, rows, attributes) for row in of_kind.values() if "config.instanceUuid" not in row]
    return Listing(_with_twins(sorted(known, key=_order)), sorted(strays, key=_order))


async def vms(vsphere: VSphere) -> list[Vm]:
    """Every VM and template that has an identity, ordered by folder and name."""
    return (await listing(vsphere)).vms


def _everything(live: Live) -> tuple[dict[str, Row], dict[int, str]]:
    """The rows of the inventory, and the names of the custom attributes by key where any is set."""
    kinds: dict[Any, Sequence[str]] = {
        vim.VirtualMachine: _VM_PATHS,
        vim.Folder: ["name", "parent"],
        vim.Datacenter: ["name", "parent"],
        vim.VirtualApp: ["name", "parent", "parentFolder"],
        vim.ResourcePool: ["name", "parent"],
        vim.ClusterComputeResource: ["name"],
        vim.HostSystem: ["name", "parent"],
        vim.Datastore: ["name"],
    }
    rows = all_of(live, kinds)
    fields = live.content.customFieldsManager
    if fields is None or not any(row.get("customValue") for row in rows.values()):
        return rows, {}
    (row,) = properties(live, vim.CustomFieldsManager, [fields], ["field"]).values()
    return rows, {int(field.key): str(field.name) for field in row.get("field", ())}


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
    refuse_unreachable(present)
    if present.id != vm.id:
        raise VmGone(
            f"{vm.name}: another VM is in its place: its instance UUID is not {vm.id.rpartition('/')[2]} any more"
        )
    return present


_UNREACHABLE: dict[Connection, tuple[str, str]] = {
    "disconnected": ("its host is not connected to vCenter", "connect the host, or see why vCenter has lost it"),
    "inaccessible": ("its files cannot be reached by its host", "see whether its datastore is there"),
    "orphaned": ("it is orphaned: its host does not know it any more", "register it anew, or take it out of vCenter"),
    "invalid": ("its configuration is damaged", "vCenter's events tell what it found in the .vmx"),
}


def unreachable(connection: Connection) -> tuple[str, str] | None:
    """Why a VM in this state cannot be backed up, and what can be done; None when it can."""
    return _UNREACHABLE.get(connection)


def refuse_unreachable(vm: Vm) -> None:
    """Raise VSphereError when no snapshot of the VM could be taken because nothing reaches it."""
    if why := unreachable(vm.connection):
        raise VSphereError(f"{vm.name}: {why[0]}", hint=why[1])


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
    return "".join(f"/{row.get('name', '')}" for row in reversed(list(_upwards(ref, rows))))


def _upwards(ref: Any, rows: Mapping[str, Row], *, by: Sequence[str] = ("parentFolder", "parent")) -> Iterator[Row]:
    """From a folder to below the root folder, which is the one that the inventory view does not list."""
    seen: set[str] = set()
    while ref is not None and moref(ref) in rows and moref(ref) not in seen:
        seen.add(moref(ref))
        row = rows[moref(ref)]
        yield row
        ref = next((row[name] for name in by if row.get(name) is not None), None)


def _pool_path(ref: Any, rows: Mapping[str, Row]) -> str:
    """The last of the pools upwards is the invisible one of the cluster or host."""
    upwards = _upwards(ref, rows, by=("parent",))
    pools = [plain_name(str(row["name"])) for row in upwards if isinstance(row[SELF], vim.ResourcePool)]
    return "/".join(reversed(pools[:-1]))


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


def _order(vm: Vm | Stray) -> tuple[str, str, str]:
    return (vm.folder, vm.name, vm.moref)


def _vm(row: Row, rows: Mapping[str, Row], attributes: Mapping[int, str], vsphere: VSphere) -> Vm:
    made = made_for(str(row.get("config.annotation") or ""))
    return Vm(made_for=made, **_place(row, rows, attributes), **_state(row, vsphere))


def _stray(row: Row, rows: Mapping[str, Row], attributes: Mapping[int, str]) -> Stray:
    name = plain_name(str(row.get("name") or moref(row[SELF])))
    return Stray(name=name, connection=_connection(row), **_place(row, rows, attributes))


def _place(row: Row, rows: Mapping[str, Row], attributes: Mapping[int, str]) -> dict[str, Any]:
    """What `Vm` and `Stray` tell alike: where it is, and what administrators noted of it."""
    host = rows.get(moref(row["runtime.host"]), {}) if row.get("runtime.host") is not None else {}
    cluster = rows.get(moref(host["parent"]), {}) if host.get("parent") is not None else {}
    stores = [rows[moref(one)] for one in row.get("datastore", ()) if moref(one) in rows]
    values = [(attributes.get(item.key), item.value) for item in row.get("customValue", ())]
    return {
        "moref": moref(row[SELF]),
        "folder": inventory_path(row.get("parent") or row.get("parentVApp"), rows),
        "host": str(host.get("name", "")),
        "cluster": plain_name(str(cluster.get("name", ""))),
        "pool": _pool_path(row.get("resourcePool"), rows),
        "datastores": tuple(sorted(str(store["name"]) for store in stores)),
        "attributes": tuple((name, str(value)) for name, value in values if name is not None and value is not None),
    }


def _connection(row: Row) -> Connection:
    return cast(Connection, str(row.get("runtime.connectionState", "connected")))


def _state(row: Row, vsphere: VSphere) -> dict[str, Any]:
    """What is told of a VM by itself, as fields of `Vm`."""
    return {
        "id": vm_id(vsphere.about.instance_uuid, str(row["config.instanceUuid"])),
        "name": plain_name(str(row["name"])),
        "power": power_state(row["runtime.powerState"]),
        "template": bool(row.get("config.template")),
        "change_tracking": bool(row.get("config.changeTrackingEnabled")),
        "consolidation_needed": bool(row.get("runtime.consolidationNeeded")),
        "connection": _connection(row),
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
