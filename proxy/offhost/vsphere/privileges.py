"""What an account needs in vSphere, feature by feature: the one table that documents, checks and tests go by.

Owns: which privileges, on what, and why. Ids and methods are those of the vSphere Web Services API reference ("Required
Privileges"); what a datastore's `/folder` and tags take, those of "vSphere Security" (Defined Privileges). Does not
own: asking vCenter who has them (`authorization`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum


class Place(StrEnum):
    """On what kind of object a privilege must be held, by grant there or above with propagation."""

    VM = "virtual machine"
    DATASTORE = "datastore"
    FOLDER = "VM folder"
    POOL = "resource pool"
    NETWORK = "network"
    HOST = "host"
    ROOT = "root folder"


class Feature(StrEnum):
    """What offhost can be told to do, as far as it differs in what it needs."""

    INVENTORY = "inventory"
    IMAGE = "image"
    CHANGE_TRACKING = "change tracking"
    QUIESCING = "quiescing"
    CONSOLIDATION = "consolidation"
    FOLDER_READING = "https"
    LATENCY = "latency"
    TAGS = "tags"
    POWER_OFF = "power_off"
    HOST = "host"
    RESTORE = "restore"
    ACCEPTANCE = "acceptance"


@dataclass(frozen=True, slots=True)
class Privilege:
    """One privilege on one kind of object, and what would fail without it."""

    id: str
    on: Place
    why: str


SYSTEM = ("System.Anonymous", "System.View", "System.Read")
"""What every role has: to see the inventory. On the root folder, propagating."""

_CREATE_SNAPSHOT = Privilege("VirtualMachine.State.CreateSnapshot", Place.VM, "to take the snapshot that is read")
_REMOVE_SNAPSHOT = Privilege("VirtualMachine.State.RemoveSnapshot", Place.VM, "to remove the snapshot again")
_BROWSE = Privilege("Datastore.Browse", Place.DATASTORE, "to find files over /folder")
_READ_FILES = Privilege("Datastore.FileManagement", Place.DATASTORE, "to read files over /folder")
_POWER_OFF = Privilege("VirtualMachine.Interact.PowerOff", Place.VM, "to have the guest shut down, or switch it off")
_POWER_ON = Privilege("VirtualMachine.Interact.PowerOn", Place.VM, "to start the VM again")
_RESTORE = (
    Privilege("Datastore.FileManagement", Place.DATASTORE, "to make the VM's directory, write its files, delete both"),
    Privilege("Datastore.AllocateSpace", Place.DATASTORE, "to register a VM on the datastore"),
    Privilege("VirtualMachine.Inventory.Create", Place.FOLDER, "to make the VM"),
    Privilege("VirtualMachine.Config.AddExistingDisk", Place.FOLDER, "to give it the disks that were written"),
    Privilege("Resource.AssignVMToPool", Place.POOL, "to place it in a resource pool"),
    Privilege("VirtualMachine.Inventory.Unregister", Place.FOLDER, "to take a restore back that was broken off"),
)

NEEDS: Mapping[Feature, tuple[Privilege, ...]] = {
    Feature.INVENTORY: (),
    Feature.IMAGE: (_CREATE_SNAPSHOT, _REMOVE_SNAPSHOT),
    Feature.CHANGE_TRACKING: (
        Privilege("VirtualMachine.Config.ChangeTracking", Place.VM, "to switch change tracking on, or renew it"),
        Privilege("VirtualMachine.Provisioning.DiskRandomRead", Place.VM, "to ask which areas of a disk changed"),
    ),
    Feature.QUIESCING: (_CREATE_SNAPSHOT,),
    Feature.CONSOLIDATION: (
        Privilege("VirtualMachine.State.RemoveSnapshot", Place.VM, "to fold deltas that no snapshot accounts for"),
    ),
    Feature.FOLDER_READING: (_BROWSE, _READ_FILES),
    Feature.LATENCY: (),
    Feature.TAGS: (),
    Feature.POWER_OFF: (_POWER_OFF, _POWER_ON),
    Feature.HOST: (
        Privilege(
            "Host.Config.Firmware", Place.HOST, "to have a host write its configuration down (no less is offered)"
        ),
    ),
    Feature.RESTORE: (
        *_RESTORE,
        Privilege(
            "Network.Assign", Place.NETWORK, "to give it its networks; without, a VM with network cards is not made"
        ),
        Privilege("Datastore.Browse", Place.DATASTORE, "to read back what was written, where it is not mounted"),
        Privilege("Global.SetCustomField", Place.FOLDER, "to set the VM's custom attributes"),
        Privilege("InventoryService.Tagging.AttachTag", Place.ROOT, "to attach its tags"),
        Privilege("InventoryService.Tagging.ObjectAttachable", Place.ROOT, "to attach its tags, from vSphere 7.0 on"),
    ),
    Feature.ACCEPTANCE: (
        *_RESTORE,
        _CREATE_SNAPSHOT,
        _REMOVE_SNAPSHOT,
        Privilege("VirtualMachine.Config.ChangeTracking", Place.VM, "to see change tracking work"),
        Privilege("VirtualMachine.Provisioning.DiskRandomRead", Place.VM, "to ask what the guest has written"),
        _POWER_OFF,
        _POWER_ON,
        Privilege("VirtualMachine.Inventory.Delete", Place.FOLDER, "to delete the throw-away VM"),
        _BROWSE,
    ),
}
"""What each feature needs beyond `SYSTEM`."""

BACKUP = (
    Feature.INVENTORY,
    Feature.IMAGE,
    Feature.CHANGE_TRACKING,
    Feature.QUIESCING,
    Feature.CONSOLIDATION,
    Feature.FOLDER_READING,
    Feature.LATENCY,
    Feature.TAGS,
)
"""The features that a job of kind image can use."""


def ids(features: Iterable[Feature]) -> list[str]:
    """The privileges of a role for these features, without those that every role has; each once, in order."""
    return sorted({privilege.id for feature in features for privilege in NEEDS[feature]})
