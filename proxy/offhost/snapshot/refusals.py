"""Disks that cannot be backed up through a snapshot, each with its reason.

Owns: the rule that a disk is refused by name before anything is done, never left out in silence. Pure.
"""

from offhost.ids import DiskKey
from offhost.vsphere.values import Disk, VmConfiguration


def unreadable(configuration: VmConfiguration) -> dict[DiskKey, str]:
    """The disks that no snapshot can hold still, or whose bytes would be ciphertext, with why."""
    reasons = ((disk.key, _reason(configuration, disk)) for disk in configuration.disks)
    return {key: reason for key, reason in reasons if reason is not None}


def _reason(configuration: VmConfiguration, disk: Disk) -> str | None:
    backing = disk.backing
    checks = (
        ("independent" in backing.mode, "it is independent: snapshots leave it out"),
        (
            backing.mode in ("nonpersistent", "undoable", "append"),
            f"its mode is {backing.mode}, which has no snapshots",
        ),
        (backing.kind == "rdm_physical", "it is a physical raw device mapping: snapshots leave it out"),
        (backing.multi_writer, "it is shared by several writers: it has no snapshots"),
        (disk.bus_sharing, "its controller shares the bus: it has no snapshots"),
        (backing.kind == "pmem", "it lies in persistent memory: it has no snapshots"),
        (configuration.encrypted or backing.encrypted, "it is encrypted: what can be read of it is ciphertext"),
        (backing.kind == "other", "its backing is of a kind that offhost does not read"),
    )
    return next((f"{disk.label}: {reason}" for applies, reason in checks if applies), None)
