"""Taking the snapshot: change tracking first, then quiesced as far as the policy asks and the guest allows.

Owns: the stuns of change tracking, the fallback, and the level of consistency that was reached: what the finished
snapshot and the guest give evidence of, never what was asked for.
"""

from dataclasses import dataclass, field
from typing import Literal

from offhost.errors import (
    LoginFailed,
    OffhostError,
    PermissionDenied,
    QuiesceFailed,
    SessionLost,
    SnapshotFailed,
    VmGone,
    VSphereError,
)
from offhost.snapshot.removal import Patience, remove_until_gone
from offhost.vsphere.session import VSphere
from offhost.vsphere.snapshots import Owner, create, snapshots, tools_running
from offhost.vsphere.tracking import enable, is_enabled, renew
from offhost.vsphere.values import QuiescePolicy, Snapshot, Vm

Consistency = Literal["application", "filesystem", "crash", "offline"]
"""What the frozen disks are: quiesced with the applications' word for it, with the file systems flushed, as after a
power cut, or those of a VM that was off."""


@dataclass(slots=True)
class Taken:
    """A snapshot that was taken, with the tree around it."""

    snapshot: Snapshot
    tree: list[Snapshot]
    tools_ran: bool = False
    """Whether VMware Tools ran in the guest when the snapshot had been taken."""
    warnings: list[str] = field(default_factory=list)

    @property
    def consistency(self) -> Consistency:
        """The level reached. vSphere's flag vouches for the file systems, where somebody in the guest can have flushed
        them; for applications, what their VSS writers said, which vSphere keeps with the snapshot.
        """
        if self.snapshot.power == "off":
            return "offline"
        if not self.snapshot.quiesced or not self.tools_ran:
            return "crash"
        return "application" if self.snapshot.vss_manifest else "filesystem"


async def ensure_tracking(vsphere: VSphere, vm: Vm, owner: Owner, patience: Patience) -> str | None:
    """Switch change tracking on where it is off; returns why it cannot be, None when it is on."""
    if await is_enabled(vsphere, vm):
        return None
    try:
        await enable(vsphere, vm, lambda: _stun(vsphere, vm, owner, patience))
    except (SessionLost, LoginFailed, VmGone):
        raise
    except VSphereError as error:
        return f"{error}; its disks are read in full"
    return None


async def renew_tracking(vsphere: VSphere, vm: Vm, owner: Owner, patience: Patience) -> str:
    """Renew a tracking that could not answer, so that not every further night is a full read; returns the warning."""
    broken = f"{vm.name}: vSphere lost track of what changed"
    try:
        await renew(vsphere, vm, lambda: _stun(vsphere, vm, owner, patience))
    except OffhostError as error:
        return f"{broken}, and change tracking could not be renewed: {error}"
    return f"{broken}; change tracking was renewed: the next backup reads in full, those after it are incremental"


async def _stun(vsphere: VSphere, vm: Vm, owner: Owner, patience: Patience) -> None:
    await create(vsphere, vm, owner.description(), quiesce_minutes=None)
    await remove_until_gone(vsphere, vm, owner, settle=False, patience=patience)


async def take(vsphere: VSphere, vm: Vm, owner: Owner, quiesce: QuiescePolicy, *, windows: bool) -> Taken:
    """Take our snapshot of a VM under a quiesce policy.

    Under `try`, whatever vSphere says of the quiesced attempt leads to one without: a guest that cannot be quiesced
    shows as a quiesce fault, as a timeout or as a general one (GenericVmConfigFault).
    Raises: QuiesceFailed under `require` when the guest was not quiesced, SnapshotFailed, VSphereError.
    """
    description, minutes, warnings = owner.description(), quiesce.timeout_minutes, list[str]()
    if vm.power != "on" or quiesce.policy == "off":
        made = await create(vsphere, vm, description, quiesce_minutes=None)
    else:
        try:
            vss = quiesce.vss if windows else None
            made = await create(vsphere, vm, description, quiesce_minutes=minutes, vss=vss)
        except (SessionLost, LoginFailed, PermissionDenied, VmGone):
            raise
        except VSphereError as error:
            if quiesce.policy == "require":
                raise
            warnings.append(f"{error}; the snapshot was taken without quiescing")
            made = await create(vsphere, vm, description, quiesce_minutes=None)
    taken = await _found(vsphere, vm, made, warnings)
    if quiesce.policy != "off" and taken.consistency == "crash":
        _not_quiesced(vm, quiesce, taken)
    return taken


def _not_quiesced(vm: Vm, quiesce: QuiescePolicy, taken: Taken) -> None:
    """VSphere takes an unquiesced snapshot without complaint when VMware Tools does not run."""
    evidence = "vSphere says it was, but VMware Tools do not run in it" if taken.snapshot.quiesced else ""
    said = f"the guest was not quiesced{f' ({evidence})' if evidence else ''}"
    if quiesce.policy == "require":
        raise QuiesceFailed(
            f"{vm.name}: the snapshot was taken, but {said}",
            hint="see that VMware Tools runs in the guest",
        )
    if not taken.warnings:
        taken.warnings.append(f"{vm.name}: {said}; the restore point is crash-consistent")


async def _found(vsphere: VSphere, vm: Vm, made: str, warnings: list[str]) -> Taken:
    tree = await snapshots(vsphere, vm)
    snapshot = next((one for one in tree if one.moref == made), None)
    if snapshot is None:
        raise SnapshotFailed(f"{vm.name}: the snapshot {made} was gone as soon as it was taken")
    tools_ran = snapshot.quiesced and await tools_running(vsphere, vm)
    return Taken(snapshot, tree, tools_ran, warnings)
