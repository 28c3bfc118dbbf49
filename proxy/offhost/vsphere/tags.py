"""Tags of VMs: read, to be saved with restore points, and attached again.

Owns: the calls. Does not own: the interface they go over (`rest`).
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from offhost.aio import shielded
from offhost.errors import VSphereError
from offhost.vsphere.rest import Ask
from offhost.vsphere.session import VSphere
from offhost.vsphere.values import Vm

_TAGGING = "/com/vmware/cis/tagging"


async def tags_of(vsphere: VSphere, vm: Vm) -> list[dict[str, str]]:
    """The VM's tags, each with id, name and category; none at a standalone host. Raises: VSphereError."""
    if not vsphere.about.is_vcenter:
        return []

    def call() -> list[dict[str, str]]:
        with vsphere.rest.session() as ask:
            attached = ask("POST", f"{_TAGGING}/tag-association?~action=list-attached-tags", {"object_id": _id(vm)})
            return sorted((_tag(ask, str(one)) for one in attached or ()), key=lambda tag: tag["id"])

    return await shielded(asyncio.to_thread(call))


async def attach_tags(vsphere: VSphere, vm: Vm, tags: Sequence[Mapping[str, Any]]) -> list[str]:
    """Attach saved tags by their ids; returns what could not be attached, as warnings."""
    if not tags:
        return []
    if not vsphere.about.is_vcenter:
        return [f"{vm.name}: a standalone host has no tags: {', '.join(str(tag['name']) for tag in tags)}"]

    def call() -> list[str]:
        with vsphere.rest.session() as ask:
            return [warning for tag in tags for warning in _attached(ask, vm, tag)]

    try:
        return await shielded(asyncio.to_thread(call))
    except VSphereError as error:
        return [f"{vm.name}: its tags were not attached: {error}"]


def _tag(ask: Ask, tag: str) -> dict[str, str]:
    found = ask("GET", f"{_TAGGING}/tag/id:{tag}")
    category = ask("GET", f"{_TAGGING}/category/id:{found['category_id']}")
    return {"id": tag, "name": str(found["name"]), "category": str(category["name"])}


def _attached(ask: Ask, vm: Vm, tag: Mapping[str, Any]) -> list[str]:
    try:
        ask("POST", f"{_TAGGING}/tag-association/id:{tag['id']}?~action=attach", {"object_id": _id(vm)})
    except VSphereError as error:
        return [f"{vm.name}: the tag {tag['category']}:{tag['name']} was not attached: {error}"]
    return []


def _id(vm: Vm) -> dict[str, str]:
    return {"id": vm.moref, "type": "VirtualMachine"}
