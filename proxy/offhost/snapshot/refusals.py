"""Disks that cannot be backed up through a snapshot, each with its reason.

Owns: the rule that a disk is refused by name before anything is done, never left out in silence. Pure.
"""

from collections.abc import Iterable

from offhost.ids import DiskKey
from offhost.vsphere.values import Disk

_DEPENDENT = "while the VM is off, edit the disk's mode to Dependent, or back its content up from within the guest"


def unreadable(disks: Iterable[Disk]) -> dict[DiskKey, str]:
    """The disks that no snapshot can hold still, or whose bytes would be ciphertext, with why and what can be done.

    A VM with a virtual TPM has an encrypted home, while its disks are encrypted only when their storage policy says so
    ("Virtual Machine Encryption Components", vSphere Security): each disk is judged by itself.
    """
    reasons = ((disk.key, _reason(disk)) for disk in disks)
    return {key: reason for key, reason in reasons if reason is not None}


def _reason(disk: Disk) -> str | None:
    backing = disk.backing
    checks = (
        (
            "independent" in backing.mode,
            f"it is independent: snapshots leave it out; {_DEPENDENT}",
        ),
        (
            backing.mode in ("nonpersistent", "undoable", "append"),
            f"its mode is {backing.mode}, which has no snapshots; {_DEPENDENT}",
        ),
        (
            backing.kind == "rdm_physical",
            (
                "it is a physical raw device mapping: snapshots leave it out; map it in virtual compatibility mode, "
                "or back its LUN up where the storage or the guest can"
            ),
        ),
        (
            backing.multi_writer,
            "it is shared by several writers: it has no snapshots; back its content up from within the guests",
        ),
        (
            disk.bus_sharing,
            "its controller shares the bus: it has no snapshots; back its content up from within the guests",
        ),
        (
            backing.kind == "pmem",
            (
                "it lies in persistent memory: it has no snapshots; move it to a datastore, or back its content up "
                "from within the guest"
            ),
        ),
        (
            backing.encrypted,
            (
                "it is encrypted: what can be read of it is ciphertext; take the encryption policy off the disk, or "
                "back its content up from within the guest"
            ),
        ),
        (
            backing.kind == "other",
            "its backing is of a kind that offhost does not read; move it to a VMFS, NFS or vSAN",
        ),
    )
    return next((f"{disk.label}: {reason}" for applies, reason in checks if applies), None)
