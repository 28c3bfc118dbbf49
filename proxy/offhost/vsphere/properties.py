"""Reading properties: in bulk, by leaf path.

Owns: the property collector. Leaf paths are asked for because a whole subtree costs seconds of decoding at a thousand
VMs, and because pyVmomi breaks its connection on reading an unset property by attribute.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pyVmomi import VmomiSupport, vim, vmodl

from offhost.vsphere.soap import Live

_PAGE_OBJECTS = 1000
_Collector = vmodl.query.PropertyCollector

Row = dict[str, Any]
"""The properties of one object that are set, by path; under `SELF` the object."""

SELF = "self"


def properties(
    live: Live, kind: type[VmomiSupport.ManagedObject], objects: Sequence[Any], paths: Sequence[str]
) -> dict[str, Row]:
    """Properties of known objects of one kind, by moref.

    Raises: ManagedObjectNotFound when one of them is gone; the fault of a property that may not be read.
    """
    if not objects:
        return {}
    specs = [_Collector.ObjectSpec(obj=one) for one in objects]
    return _rows(live, specs, {kind: paths})


def all_of(live: Live, wanted: Mapping[type[VmomiSupport.ManagedObject], Sequence[str]]) -> dict[str, Row]:
    """Properties of everything of these kinds in the inventory, by moref, in as few calls as the endpoint allows."""
    views = live.content.viewManager
    assert views is not None, "every vSphere endpoint has a view manager"
    view = views.CreateContainerView(live.content.rootFolder, list(wanted), True)
    try:
        into = _Collector.TraversalSpec(type=vim.view.ContainerView, path="view", skip=False)
        return _rows(live, [_Collector.ObjectSpec(obj=view, skip=True, selectSet=[into])], wanted)
    finally:
        view.Destroy()


def _rows(
    live: Live,
    objects: list[Any],
    wanted: Mapping[type[VmomiSupport.ManagedObject], Sequence[str]],
) -> dict[str, Row]:
    collector = live.content.propertyCollector
    asked = [_Collector.PropertySpec(type=kind, pathSet=list(paths)) for kind, paths in wanted.items()]
    spec = _Collector.FilterSpec(objectSet=objects, propSet=asked)
    page = collector.RetrievePropertiesEx([spec], _Collector.RetrieveOptions(maxObjects=_PAGE_OBJECTS))
    rows: dict[str, Row] = {}
    while page is not None:
        for found in page.objects:
            _refuse_hidden(found)
            row = rows.setdefault(moref(found.obj), {SELF: found.obj})
            row.update((item.name, item.val) for item in found.propSet)
        page = collector.ContinueRetrievePropertiesEx(page.token) if page.token else None
    return rows


def touch(live: Live) -> None:
    """Ask for something that needs a log-in: the service instance answers anyone."""
    properties(live, vim.Folder, [live.content.rootFolder], ["name"])


def moref(ref: Any) -> str:
    """The id of a managed object, `vm-12`."""
    return str(ref._GetMoId())  # noqa: SLF001 -- pyVmomi has no public name for it


def _refuse_hidden(found: Any) -> None:
    """A property that may not be read is an error, not an unset property: a missing `keyId` must not mean 'clear'."""
    for missing in found.missingSet:
        if isinstance(missing.fault, vim.fault.NoPermission):
            raise missing.fault
