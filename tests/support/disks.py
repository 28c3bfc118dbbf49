"""Disks and VMs as vSphere describes them, for tests of what reads them."""

from dataclasses import replace
from typing import Any

from offhost.ids import DiskKey, VmId
from offhost.vsphere.values import Backing, Disk, Vm

VM = Vm(
    id=VmId("vc/vm"),
    moref="vm-1",
    name="web",
    folder="/DC0/vm",
    power="on",
    template=False,
    host="host-1",
    datastores=("DS1",),
    change_tracking=True,
    consolidation_needed=False,
)


def disk(file: str, capacity_bytes: int, **backing: Any) -> Disk:
    """A disk in a flat file; keyword arguments change its backing."""
    plain = Backing(
        kind="flat",
        file=file,
        chain=(file,),
        datastore="DS1",
        uuid=None,
        mode="persistent",
        multi_writer=False,
        encrypted=False,
        thin=True,
    )
    return Disk(
        key=DiskKey("scsi0:0"),
        device_key=2000,
        label="Hard disk 1",
        unit="scsi0:0",
        bus_sharing=False,
        capacity_bytes=capacity_bytes,
        change_id=None,
        backing=replace(plain, **backing),
    )
