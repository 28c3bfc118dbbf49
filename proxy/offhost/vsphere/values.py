"""What vSphere says, as plain values: nothing above this room sees a pyVmomi object.

Sizes are bytes. Datastore paths keep vSphere's form, `[datastore] folder/file`.
"""

from dataclasses import dataclass
from typing import Literal

from offhost.ids import DiskKey, VmId

PowerState = Literal["on", "off", "suspended"]
Connection = Literal["connected", "disconnected", "inaccessible", "orphaned", "invalid"]
"""vSphere's connectionState: whether the VM's host answers, and its files can be reached."""


@dataclass(frozen=True, slots=True)
class Vm:
    """One VM of the inventory, without its devices."""

    id: VmId
    moref: str
    name: str
    folder: str
    """Inventory path of its folder, `/DC0/vm/Production`."""
    power: PowerState
    template: bool
    host: str
    datastores: tuple[str, ...]
    change_tracking: bool
    consolidation_needed: bool
    twins: tuple[str, ...] = ()
    """The paths of other VMs that bear the same id, as a copied .vmx does on a standalone host."""
    pool: str = ""
    """Its resource pools and vApps, below the invisible one of its cluster: `Production/Web`. A template has none."""
    cluster: str = ""
    """Empty on a host that is in none."""
    attributes: tuple[tuple[str, str], ...] = ()
    """Custom attributes that are set, by name."""
    connection: Connection = "connected"
    made_for: str | None = None
    """What offhost itself made it for; see `vsphere.marker`."""


@dataclass(frozen=True, slots=True)
class Stray:
    """A VM that vSphere lists, and of which it has no configuration just now: orphaned, inaccessible, being created.

    Nobody can tell which one it is: its name may be that of its file alone.
    """

    moref: str
    name: str
    folder: str
    host: str
    datastores: tuple[str, ...]
    pool: str
    cluster: str
    attributes: tuple[tuple[str, str], ...]
    connection: Connection


BackingKind = Literal["flat", "sparse", "sesparse", "rdm_virtual", "rdm_physical", "pmem", "other"]


@dataclass(frozen=True, slots=True)
class Backing:
    """The files behind a disk."""

    kind: BackingKind
    file: str
    """The topmost file: the one that holds the disk's state."""
    chain: tuple[str, ...]
    """From `file` down to the base, each a datastore path."""
    datastore: str
    uuid: str | None
    mode: str
    """vSphere's diskMode: persistent, independent_persistent, independent_nonpersistent..."""
    multi_writer: bool
    encrypted: bool
    thin: bool


@dataclass(frozen=True, slots=True)
class Disk:
    """A virtual disk as one configuration (the VM's, or a snapshot's) shows it."""

    key: DiskKey
    device_key: int
    label: str
    """What administrators see: `Hard disk 1`."""
    unit: str
    """Controller and unit, `scsi0:0`."""
    bus_sharing: bool
    capacity_bytes: int
    change_id: str | None
    backing: Backing


@dataclass(frozen=True, slots=True)
class VmConfiguration:
    """The configuration of a VM or of its snapshot."""

    name: str
    vmx_path: str
    """Datastore path of the .vmx file."""
    hardware_version: int
    guest_id: str
    disks: tuple[Disk, ...]
    saved: dict[str, object]
    """What is kept with the restore point to make the VM again, as JSON: hardware, extraConfig, custom attributes,
    folder, pool, networks by name and id, storage policy, firmware, annotation."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot in a VM's tree."""

    moref: str
    id: int
    name: str
    description: str
    parent: str | None
    """The moref of the snapshot it was taken on, None at the root."""
    created: str
    """RFC 3339, the endpoint's own clock."""
    quiesced: bool
    """vSphere's own statement that the guest was quiesced for it."""
    power: PowerState
    """The VM's power state when it was taken."""
    current: bool
    """Whether the VM runs on top of this one."""
    vss_manifest: str | None = None
    """The file, beside the VM's, of what the VSS writers of a Windows guest said when they were quiesced for it."""


@dataclass(frozen=True, slots=True)
class Datastore:
    """A datastore, as far as space and names go."""

    moref: str
    name: str
    url: str
    """Unique within an endpoint where the name is not: `ds:///vmfs/volumes/<uuid>/`."""
    kind: str
    """vSphere's type: VMFS, NFS, NFS41, vsan, VVOL..."""
    capacity_bytes: int
    free_bytes: int
    accessible: bool


@dataclass(frozen=True, slots=True)
class VssOptions:
    """What a Windows guest's volume shadow copy service is asked for; see VirtualMachineWindowsQuiesceSpec.

    `copy` leaves the applications' own backup history and logs alone.
    """

    backup_type: Literal["full", "incremental", "differential", "log", "copy", "other"] = "copy"
    context: Literal["auto", "backup", "file_share_backup"] = "auto"
    bootable_system_state: bool = False
    partial_file_support: bool = False


@dataclass(frozen=True, slots=True)
class QuiescePolicy:
    """Whether the guest must, should or need not be quiesced, and how long that may take."""

    policy: Literal["require", "try", "off"] = "try"
    timeout_minutes: int = 15
    vss: VssOptions = VssOptions()
