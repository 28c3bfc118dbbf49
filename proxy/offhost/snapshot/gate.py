"""The gate before commit, which asks whether what was read is still what was frozen.

Owns: the comparison of a snapshot's disks as they were recorded with what they are now. Pure. A difference means that
somebody removed our snapshot, or that storage vMotion moved the disk: the bytes read since may be of two moments.
"""

from collections.abc import Sequence

from offhost.errors import GateClosed
from offhost.vsphere.values import Disk


def check_disks(vm_name: str, recorded: Sequence[Disk], present: Sequence[Disk]) -> None:
    """Raise GateClosed, naming the disk, unless files, datastore, chain, size and change id are as recorded."""
    now = {disk.device_key: disk for disk in present}
    for disk in recorded:
        other = now.get(disk.device_key)
        if other is None:
            raise GateClosed(f"{vm_name}: {disk.label} is not in the snapshot any more")
        for what, before, after in _traits(disk, other):
            if before != after:
                raise GateClosed(
                    f"{vm_name}: {disk.label} was changed while it was read: its {what} was {before}, now {after}",
                    hint="keep storage vMotion and snapshot removal away from VMs during their backup",
                )


def _traits(before: Disk, after: Disk) -> tuple[tuple[str, object, object], ...]:
    return (
        ("datastore", before.backing.datastore, after.backing.datastore),
        ("file", before.backing.file, after.backing.file),
        ("chain", before.backing.chain, after.backing.chain),
        ("UUID", before.backing.uuid, after.backing.uuid),
        ("size", before.capacity_bytes, after.capacity_bytes),
        ("change id", before.change_id, after.change_id),
    )
