"""Where a new VM goes: folder, resource pool, networks, found by the names that people use.

Owns: the choice, from one reading of the inventory. A place of the old VM that is not there any more is replaced and
said; one that was asked for is not.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pyVmomi import vim

from offhost.errors import NotFound
from offhost.vsphere.inventory import inventory_path
from offhost.vsphere.properties import SELF, Row, all_of, moref
from offhost.vsphere.soap import Live

_Nic = vim.vm.device.VirtualEthernetCard
_Portgroup = vim.dvs.DistributedVirtualPortgroup
Rows = Mapping[str, Row]


@dataclass(frozen=True, slots=True)
class Place:
    """The ids of the folder and the pool where a VM goes."""

    folder: str
    pool: str
    warnings: tuple[str, ...]


def places(live: Live) -> dict[str, Row]:
    """All that a choice is made from, by moref."""
    return all_of(
        live,
        {
            vim.Datacenter: ["name", "parent", "datastore", "vmFolder"],
            vim.Folder: ["name", "parent"],
            vim.Datastore: ["name"],
            vim.ComputeResource: ["datastore", "resourcePool"],
            vim.ResourcePool: ["owner"],
            vim.Network: ["name"],
            _Portgroup: ["key", "config.distributedVirtualSwitch"],
            vim.DistributedVirtualSwitch: ["uuid"],
        },
    )


def choose_place(rows: Rows, datastore: str, folder: str | None, saved: Mapping[str, Any]) -> Place:
    """A folder and a pool from which the datastore can be used; `folder` is an inventory path that must be there.

    Raises: NotFound.
    """
    path = folder or str(saved.get("folder") or "")
    warnings: list[str] = []
    found = next((ref for ref, row in _of(rows, vim.Folder).items() if inventory_path(row[SELF], rows) == path), None)
    if found is None and folder is not None:
        raise NotFound(f"there is no folder {folder}", hint="name it as `/DATACENTER/vm/FOLDER`")
    if found is None:
        warnings.append(f"the folder {path or '(unknown)'} is not there: the VM goes to its datacenter's own")
        found = moref(rows[datacenter_of(rows, datastore, path)]["vmFolder"])
    return Place(found, _pool(rows, datastore, saved, warnings), tuple(warnings))


def datacenter_of(rows: Rows, datastore: str, near: str = "") -> str:
    """The datacenter that has a datastore of this name; of several, the one that the path `near` leads through."""
    having = [ref for ref, row in _of(rows, vim.Datacenter).items() if _has(rows, row, datastore)]
    nearer = [ref for ref in having if near.startswith(inventory_path(rows[ref][SELF], rows) + "/")]
    for candidates in (having, nearer):
        if len(candidates) == 1:
            return candidates[0]
    raise NotFound(f"{len(having)} datacenters have a datastore {datastore!r}", hint="name the folder to restore to")


def network_backings(rows: Rows, names: Iterable[str]) -> dict[str, Any]:
    """How to connect to networks, by their names; absent ones are left out."""
    by_name = {str(row["name"]): row for row in _of(rows, vim.Network).values()}
    return {name: _network_backing(rows, by_name[name]) for name in names if name in by_name}


def _pool(rows: Rows, datastore: str, saved: Mapping[str, Any], warnings: list[str]) -> str:
    computes = {ref: row for ref, row in _of(rows, vim.ComputeResource).items() if _has(rows, row, datastore)}
    wanted = (saved.get("resource_pool") or {}).get("id")
    pool = _of(rows, vim.ResourcePool).get(str(wanted))
    if pool is not None and moref(pool["owner"]) in computes:
        return str(wanted)
    for row in computes.values():
        if "resourcePool" in row:
            warnings.append("the resource pool of the saved VM is not there: the VM goes to a root pool")
            return moref(row["resourcePool"])
    raise NotFound(f"no host or cluster can use the datastore {datastore!r}")


def _of(rows: Rows, kind: Any) -> dict[str, Row]:
    return {ref: row for ref, row in rows.items() if isinstance(row[SELF], kind)}


def _has(rows: Rows, row: Row, datastore: str) -> bool:
    return any(rows.get(moref(one), {}).get("name") == datastore for one in row.get("datastore", ()))


def _network_backing(rows: Rows, row: Row) -> Any:
    if isinstance(row[SELF], _Portgroup):
        switch = rows[moref(row["config.distributedVirtualSwitch"])]
        port = vim.dvs.PortConnection(portgroupKey=row["key"], switchUuid=switch["uuid"])
        return _Nic.DistributedVirtualPortBackingInfo(port=port)
    return _Nic.NetworkBackingInfo(deviceName=row["name"], network=row[SELF])
