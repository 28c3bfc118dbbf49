"""The guard against filling a datastore: a snapshot's deltas grow for as long as it is held."""

from offhost.errors import LowSpace
from offhost.vsphere.inventory import datastores_of
from offhost.vsphere.session import VSphere
from offhost.vsphere.values import Vm


async def check_free_space(vsphere: VSphere, vm: Vm, *, min_free: float) -> None:
    """Raise LowSpace when a datastore of the VM has less than `min_free` of its capacity free (0.1 is 10 %).

    Asked before the snapshot is taken, and again while it is held.
    """
    for datastore in await datastores_of(vsphere, vm):
        if datastore.free_bytes < min_free * datastore.capacity_bytes:
            free = datastore.free_bytes / datastore.capacity_bytes
            raise LowSpace(
                f"{vm.name}: the datastore {datastore.name} has {free:.1%} free, less than {min_free:.1%}",
                hint="make room on the datastore, or lower limits.min_free",
            )
