"""The disks and snapshots of many VMs, for whoever plans what to do with them: in batches, and less than is saved.

Owns: which calls that takes, and that the devices of a batch are plain values before the next is read: vSphere's own
objects for a thousand VMs take hundreds of MiB. Does not own: one VM's configuration in full (`configuration`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from pyVmomi import vim, vmodl

from offhost.vsphere.disks import disks
from offhost.vsphere.properties import Row, moref, properties
from offhost.vsphere.session import VSphere
from offhost.vsphere.snapshots import TREE_PATHS, current_lineage, tree_in
from offhost.vsphere.soap import Live
from offhost.vsphere.values import Disk, Vm

_BATCH_VMS = 100
_DEVICES = "config.hardware.device"
_PATHS = (_DEVICES, "datastore", *TREE_PATHS)


@dataclass(frozen=True, slots=True)
class Surveyed:
    """A VM as it is now."""

    disks: tuple[Disk, ...]
    lineage: tuple[str, ...]
    """The lineage that a snapshot would have if it were taken now."""
    datastores: tuple[str, ...]
    """The morefs of those that its files lie on."""


async def survey(vsphere: VSphere, vms: Sequence[Vm]) -> dict[str, Surveyed]:
    """What is known of these VMs, by moref; one that is gone, or without a configuration just now, is missing."""
    found: dict[str, Surveyed] = {}
    for at in range(0, len(vms), _BATCH_VMS):
        refs = [vm.moref for vm in vms[at : at + _BATCH_VMS]]
        found |= await vsphere.read(partial(_batch, refs=refs), "reading the disks of many VMs")
    return found


def _batch(live: Live, refs: list[str]) -> dict[str, Surveyed]:
    while refs:
        try:
            rows = properties(live, vim.VirtualMachine, [live.vm(ref) for ref in refs], _PATHS)
        except vmodl.fault.ManagedObjectNotFound as gone:
            left = [ref for ref in refs if ref != moref(gone.obj)]
            if len(left) == len(refs):
                raise
            refs = left
        else:
            return {ref: _surveyed(row) for ref, row in rows.items() if _DEVICES in row}
    return {}


def _surveyed(row: Row) -> Surveyed:
    return Surveyed(
        disks=disks(row[_DEVICES]),
        lineage=current_lineage(tree_in(row)),
        datastores=tuple(moref(store) for store in row.get("datastore", ())),
    )
