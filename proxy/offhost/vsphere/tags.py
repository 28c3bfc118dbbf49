"""Tags of VMs: read, to choose VMs by and to be saved with restore points, and attached again.

Owns: the calls. Does not own: the interface they go over (`rest`).
"""

import asyncio
from collections.abc import Collection, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from offhost.aio import retrying, shielded
from offhost.errors import PermissionDenied, VSphereError
from offhost.vsphere.privileges import NEEDS, Feature
from offhost.vsphere.rest import Ask
from offhost.vsphere.session import VSphere
from offhost.vsphere.values import Vm

_TAGGING = "/com/vmware/cis/tagging"
_READ_RETRIES = 3
_TAKES = " and ".join(one.id for one in NEEDS[Feature.RESTORE] if one.id.startswith("InventoryService.Tagging."))


async def tags_of(vsphere: VSphere, vm: Vm) -> list[dict[str, str]]:
    """The VM's tags, each with id, name and category; none at a standalone host. Raises: VSphereError."""
    if not vsphere.about.is_vcenter:
        return []

    def call() -> list[dict[str, str]]:
        with vsphere.rest.session() as ask:
            attached = ask("POST", f"{_TAGGING}/tag-association?~action=list-attached-tags", {"object_id": _id(vm)})
            return sorted((_tag(ask, str(one)) for one in attached or ()), key=lambda tag: tag["id"])

    return await shielded(asyncio.to_thread(call))


async def tagged(vsphere: VSphere, patterns: Collection[str]) -> dict[str, frozenset[str]]:
    """The morefs of the VMs that bear a tag of each pattern, `category:tag` with `*`, `?` and `[...]`, exact case.

    What is asked grows with the categories and the tags in those that are meant, not with the VMs: these are asked for
    in one call. None at a standalone host. Raises: VSphereError.
    """
    if not patterns or not vsphere.about.is_vcenter:
        return {pattern: frozenset() for pattern in patterns}

    def call() -> dict[str, frozenset[str]]:
        with vsphere.rest.session() as ask:
            names = dict(_named_tags(ask, patterns))
            bearers = _bearers(ask, list(names)) if names else {}
        return {
            pattern: frozenset(
                vm for tag, name in names.items() if fnmatchcase(name, pattern) for vm in bearers.get(tag, ())
            )
            for pattern in patterns
        }

    wait_s = vsphere.endpoint.retry_wait_s
    try:
        return await retrying(lambda: shielded(asyncio.to_thread(call)), times=_READ_RETRIES, wait_s=wait_s)
    except VSphereError as error:
        raise VSphereError(
            f"who bears the tags {', '.join(sorted(patterns))} cannot be told: {error.message}",
            hint="without that no job knows what it may back up; where no tags are used, write `opt_out_tag: none` in "
            "proxy.yaml",
        ) from error


async def attach_tags(vsphere: VSphere, vm: Vm, tags: Sequence[Mapping[str, Any]]) -> list[str]:
    """Attach saved tags by their ids; returns what could not be attached, as warnings."""
    if not tags:
        return []
    if not vsphere.about.is_vcenter:
        return [f"{vm.name}: a standalone host has no tags: {', '.join(str(tag['name']) for tag in tags)}"]

    def call() -> list[str]:
        with vsphere.changing(f"attaching tags to {vm.name}", vm), vsphere.rest.session() as ask:
            return [warning for tag in tags for warning in _attached(ask, vm, tag)]

    try:
        return await shielded(asyncio.to_thread(call))
    except VSphereError as error:
        return [f"{vm.name}: its tags were not attached: {error}"]


def _named_tags(ask: Ask, patterns: Collection[str]) -> Iterator[tuple[str, str]]:
    """The tags that the patterns mean, by id, as `category:tag`."""
    for category_id in ask("GET", f"{_TAGGING}/category") or ():
        category = str(ask("GET", f"{_TAGGING}/category/id:{category_id}")["name"])
        if not any(fnmatchcase(category, part) for pattern in patterns for part in _categories(pattern)):
            continue
        for tag in ask("POST", f"{_TAGGING}/tag/id:{category_id}?~action=list-tags-for-category") or ():
            name = f"{category}:{ask('GET', f'{_TAGGING}/tag/id:{tag}')['name']}"
            if any(fnmatchcase(name, pattern) for pattern in patterns):
                yield str(tag), name


def _categories(pattern: str) -> list[str]:
    """What of a `category:tag` may be the category: names, and ranges of letters, may have a colon, too."""
    return [pattern[:at] for at, letter in enumerate(pattern) if letter == ":"]


def _bearers(ask: Ask, tags: Sequence[str]) -> dict[str, list[str]]:
    """The morefs of the VMs that bear each tag."""
    path = f"{_TAGGING}/tag-association?~action=list-attached-objects-on-tags"
    return {
        str(one["tag_id"]): [str(ref["id"]) for ref in one["object_ids"] or () if ref["type"] == "VirtualMachine"]
        for one in ask("POST", path, {"tag_ids": list(tags)}) or ()
    }


def _tag(ask: Ask, tag: str) -> dict[str, str]:
    found = ask("GET", f"{_TAGGING}/tag/id:{tag}")
    category = ask("GET", f"{_TAGGING}/category/id:{found['category_id']}")
    return {"id": tag, "name": str(found["name"]), "category": str(category["name"])}


def _attached(ask: Ask, vm: Vm, tag: Mapping[str, Any]) -> list[str]:
    try:
        ask("POST", f"{_TAGGING}/tag-association/id:{tag['id']}?~action=attach", {"object_id": _id(vm)})
    except PermissionDenied as error:
        return [f"{vm.name}: the tag {tag['category']}:{tag['name']} was not attached: {error}; it takes {_TAKES}"]
    except VSphereError as error:
        return [f"{vm.name}: the tag {tag['category']}:{tag['name']} was not attached: {error}"]
    return []


def _id(vm: Vm) -> dict[str, str]:
    return {"id": vm.moref, "type": "VirtualMachine"}
