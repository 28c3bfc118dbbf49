"""The guard against filling a datastore: a snapshot's deltas grow for as long as it is held."""

from collections.abc import Iterable

from offhost.errors import LowSpace
from offhost.printable import size
from offhost.vsphere.inventory import datastores_of
from offhost.vsphere.session import VSphere
from offhost.vsphere.values import Datastore, Vm

_GROWTHS = 3
"""A run may take longer than the last one, or meet a busier hour."""


async def check_free_space(vsphere: VSphere, vm: Vm, *, min_free: float, last_growth_bytes: int = 0) -> None:
    """Raise LowSpace when a datastore of the VM has less than `min_free` of its capacity free (0.1 is 10 %), or less
    than three times what the snapshot of the VM's last backup grew to.

    Asked before the snapshot is taken, and again while it is held.
    """
    if shortage := low_space(
        vm, await datastores_of(vsphere, vm), min_free=min_free, last_growth_bytes=last_growth_bytes
    ):
        raise shortage


def low_space(
    vm: Vm, datastores: Iterable[Datastore], *, min_free: float, last_growth_bytes: int = 0
) -> LowSpace | None:
    """The error of the first of a VM's datastores that is too full."""
    for datastore in datastores:
        if datastore.free_bytes < min_free * datastore.capacity_bytes:
            free = datastore.free_bytes / datastore.capacity_bytes
            return LowSpace(
                f"{vm.name}: the datastore {datastore.name} has {free:.1%} free, less than {min_free:.1%}",
                hint="make room on the datastore, or lower limits.min_free",
            )
        if datastore.free_bytes < _GROWTHS * last_growth_bytes:
            return LowSpace(
                f"{vm.name}: the datastore {datastore.name} has {size(datastore.free_bytes)} free, and the snapshot of "
                f"the last backup grew to {size(last_growth_bytes)}: {_GROWTHS} times that is wanted",
                hint="make room on the datastore, or back the VM up when less is written to it",
            )
    return None
