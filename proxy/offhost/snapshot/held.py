"""A held snapshot as a scope: inside it the VM's disks stand still and can be opened; after it nothing is left.

Owns: the order of things, and that the snapshot is removed on every way out: success, failure, cancellation, loss of
the session. Does not own: what is copied.
"""

import asyncio
import logging
import posixpath
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from offhost.aio import Abandon, in_own_thread, in_thread, shielded
from offhost.clock import Clock
from offhost.errors import (
    ChangeTrackingBroken,
    GateClosed,
    NotFound,
    OffhostError,
    SessionLost,
    Stopped,
    TransportUnavailable,
    VmGone,
    VSphereError,
)
from offhost.extents import ExtentMap
from offhost.snapshot.gate import check_disks
from offhost.snapshot.removal import Patience, RemovalTurns, consolidated, remove_ours
from offhost.snapshot.taking import Consistency, Taken, ensure_tracking, renew_tracking, take
from offhost.transport.contract import OpenDisk, Transport, open_first
from offhost.vsphere.configuration import configuration, snapshot_configuration
from offhost.vsphere.history import current_time, reverted_since
from offhost.vsphere.session import VSphere
from offhost.vsphere.snapshots import Owner, lineage
from offhost.vsphere.tags import tags_of
from offhost.vsphere.tracking import changed_areas
from offhost.vsphere.values import Disk, QuiescePolicy, Vm, VmConfiguration

T = TypeVar("T")
_log = logging.getLogger(__name__)

_FILE_LIMIT_BYTES = 8 << 20
"""A .vmx has some KiB, an EFI nvram some hundred."""
_PATIENCE = Patience()
HUNG_AFTER_S = 60.0
"""A read that has not come back so long after its cancellation never will: a disk's own timeouts are shorter."""


class HeldSnapshot:
    """A VM's disks, frozen, for as long as the scope of `held` lasts. Of one event loop.

    `warnings` grows until the scope has ended: the removal of the snapshot adds its own. Work that hangs in the kernel,
    as on an NFS mount whose server is gone, must not hold the snapshot for ever: `hung_after_s` after a cancellation it
    is left to itself, and so is what it may be reading.
    """

    def __init__(
        self,
        vsphere: VSphere,
        vm: Vm,
        *,
        frozen: VmConfiguration,
        taken: Taken | None,
        transports: Sequence[Transport],
        taken_at: datetime,
        endpoint_time: datetime,
        warnings: list[str],
        hung_after_s: float,
    ) -> None:
        """`taken` is None for a template, which is read as it is."""
        self.vm = vm
        self.configuration = frozen
        self.taken_at = taken_at
        self.endpoint_time = endpoint_time
        """`taken_at` by the endpoint's clock, which is what `reverted_since` wants to know of a base."""
        self.consistency: Consistency = taken.consistency if taken else "offline"
        self.lineage = lineage(taken.tree, taken.snapshot.moref) if taken else ()
        self.warnings = warnings
        self.tracking_broken = False
        """Whether vSphere failed to answer what it should have known: its journal is damaged."""
        self._vsphere = vsphere
        self._snapshot = taken.snapshot.moref if taken else None
        self._manifest = taken.snapshot.vss_manifest if taken else None
        self._transports = transports
        self._opened: list[tuple[OpenDisk, str]] = []
        self._reverted: dict[str, bool] = {}
        self._closed = False
        self._abandon = Abandon(hung_after_s, self._abandoned)
        self.abandoned = False
        """Whether a read hangs that nobody waits for any more."""

    async def open(self, disk: Disk) -> OpenDisk:
        """Open a disk through the first transport that can; it is closed with the scope.

        Raises: TransportUnavailable with every transport's reason.
        """
        return await in_thread(self._open, disk, abandon=self._abandon)

    async def reading(self, work: Callable[..., T], *args: object, interrupt: Callable[[], None]) -> T:
        """Long work on the opened disks, in a thread of its own, which `interrupt` ends on a cancellation."""
        return await in_own_thread(work, *args, interrupt=interrupt, abandon=self._abandon)

    async def changed(self, disk: Disk, base_change_id: str) -> ExtentMap:
        """What changed on a disk since a base. Raises: ChangeTrackingInvalid with the reason for a full read."""
        assert self._snapshot is not None, "a template has no base: it does not change"
        try:
            return await changed_areas(
                self._vsphere, self.vm, disk, snapshot=self._snapshot, base_change_id=base_change_id
            )
        except ChangeTrackingBroken:
            self.tracking_broken = True
            raise

    async def reverted_since(self, endpoint_time: str) -> bool:
        """Whether the VM was, or may have been, reverted to a snapshot since the `endpoint_time` of an earlier one.

        A revert can leave lineage and change id as they were, and equal lineages prove nothing either: a snapshot may
        have been taken, reverted to and removed in between. When the events cannot be read, that is a warning and the
        answer is yes.
        """
        if endpoint_time not in self._reverted:  # asked for each disk, and of the same time for most
            self._reverted[endpoint_time] = await self._reverted_since(endpoint_time)
        return self._reverted[endpoint_time]

    async def _reverted_since(self, endpoint_time: str) -> bool:
        try:
            since = datetime.fromisoformat(endpoint_time)
        except ValueError:
            return True
        if since.tzinfo is None:
            return True
        try:
            return await reverted_since(self._vsphere, self.vm, since)
        except SessionLost:
            raise
        except VSphereError as error:
            self.warnings.append(f"{error}; its disks are read in full")
            return True

    async def gate(self) -> None:
        """Return only when every byte read so far is of this snapshot. Raises: GateClosed, which discards the run."""
        try:
            present = await _frozen(self._vsphere, self.vm, self._snapshot)
        except VmGone as error:
            raise GateClosed(
                f"{self.vm.name}: the snapshot was removed while it was read",
                hint="the VM's events in vCenter say by whom; run the backup again",
            ) from error
        check_disks(self.vm.name, self.configuration.disks, present.disks)
        for opened, fingerprint in self._opened:
            if await in_thread(opened.fingerprint, abandon=self._abandon) != fingerprint:
                raise GateClosed(
                    f"{self.vm.name}: a file of a disk was replaced while it was read",
                    hint="the VM was moved or restored meanwhile; run the backup again",
                )

    async def files(self) -> dict[str, bytes]:
        """The .vmx and nvram files, and the manifest of a Windows guest's VSS writers, by name.

        What cannot be had is a warning: a restore does without them.
        """
        return await in_thread(self._fetch_files, abandon=self._abandon)

    async def close(self) -> None:
        """Close the opened disks: before the snapshot is removed, and whatever they say."""
        self._closed = True
        while self._opened:
            opened, _ = self._opened.pop()
            try:
                close = in_thread(opened.close, abandon=Abandon(0, self._abandoned))
                await asyncio.wait_for(close, self._abandon.after_s)
            except Exception as error:  # noqa: BLE001 - whatever a source raises, the snapshot must go
                self.warnings.append(f"{self.vm.name}: closing a disk: {type(error).__name__}: {error}")

    def _abandoned(self) -> None:
        """What a thread still reads must not be closed under it: its numbers would be given to other files."""
        _log.error(
            "%s: a read of its disks does not come back; its thread and files are left to themselves", self.vm.name
        )
        self._opened.clear()
        self.abandoned = True

    def _open(self, disk: Disk) -> OpenDisk:
        """In the thread up to the last step: a cancellation that comes meanwhile still finds the disk in the list."""
        opened = open_first(self._transports, self.vm, disk)
        try:
            self._opened.append((opened, opened.fingerprint()))
            if self._closed:
                raise Stopped(f"{self.vm.name}: {disk.label} was opened when nobody waited for it any more")
        except BaseException:
            opened.close()
            raise
        return opened

    def _fetch_files(self) -> dict[str, bytes]:
        fetched: dict[str, bytes] = {}
        for path in _small_files(self.configuration, self._manifest):
            try:
                fetched[posixpath.basename(path)] = self._fetch(path)
            except OffhostError as error:
                if path == self.configuration.vmx_path or not isinstance(error, NotFound):
                    self.warnings.append(f"{self.vm.name}: not saved with the restore point: {error}")
        return fetched

    def _fetch(self, path: str) -> bytes:
        """Through the first transport that can."""
        reasons: list[str] = []
        for transport in self._transports:
            try:
                return transport.fetch(path, _FILE_LIMIT_BYTES)
            except TransportUnavailable as error:
                reasons.append(f"{transport.name}: {error.message}")
        raise TransportUnavailable(f"{path}: {'; '.join(reasons)}")


@asynccontextmanager
async def held(
    vsphere: VSphere,
    vm: Vm,
    *,
    owner: Owner,
    quiesce: QuiescePolicy,
    transports: Sequence[Transport],
    clock: Clock,
    warnings: list[str],
    track_changes: bool = True,
    consolidate: bool = False,
    removals: RemovalTurns | None = None,
    patience: Patience = _PATIENCE,
    hung_after_s: float = HUNG_AFTER_S,
) -> AsyncIterator[HeldSnapshot]:
    """Hold a snapshot of a VM; a template is held as it is.

    `track_changes`: switch change tracking on first, where it is off and can be. `consolidate`: fold what is left of
    others' snapshots, before and after; when that fails, or may not be done, it is a warning. `removals`: whose turn it
    is to remove snapshots; None: at any time. Leaving the scope closes the disks and removes every snapshot that this
    run made of the VM, shielded from cancellation; a removal that fails is a warning and an error in the log, and does
    not hide what ended the scope. `warnings` is added to whatever happens, also where no snapshot is held in the end. A
    change tracking that turned out to be broken is renewed after a scope that ended well.
    Raises: QuiesceFailed, SnapshotFailed, PermissionDenied, VmGone and other VSphereErrors.
    """
    hold = _Hold(vsphere, vm, owner, warnings, patience, consolidate, removals or RemovalTurns())
    snap: HeldSnapshot | None = None
    well = False
    try:
        # Before the snapshot: a revert while the guest is being quiesced counts as one since.
        taken_at, endpoint_time = clock.now(), await current_time(vsphere)
        taken = None if vm.template else await hold.take(quiesce, track=track_changes)
        frozen = await _frozen(vsphere, vm, taken.snapshot.moref if taken else None)
        warnings.extend(await _save_tags(vsphere, vm, frozen))
        snap = HeldSnapshot(
            vsphere,
            vm,
            frozen=frozen,
            taken=taken,
            transports=transports,
            taken_at=taken_at,
            endpoint_time=endpoint_time,
            warnings=warnings,
            hung_after_s=hung_after_s,
        )
        yield snap
        well = True
    finally:
        await shielded(hold.let_go(snap, renew=well and snap is not None and snap.tracking_broken))


@dataclass(frozen=True, slots=True)
class _Hold:
    """What is done to the VM before and after."""

    vsphere: VSphere
    vm: Vm
    owner: Owner
    warnings: list[str]
    patience: Patience
    consolidate: bool
    removals: RemovalTurns

    async def take(self, quiesce: QuiescePolicy, *, track: bool) -> Taken:
        if self.vm.consolidation_needed:
            self.warnings.extend(await consolidated(self.vsphere, self.vm, may=self.consolidate))
        untracked = await ensure_tracking(self.vsphere, self.vm, self.owner, self.patience) if track else None
        if untracked:
            self.warnings.append(untracked)
        guest_id = (await configuration(self.vsphere, self.vm)).guest_id
        taken = await take(self.vsphere, self.vm, self.owner, quiesce, windows=guest_id.lower().startswith("win"))
        self.warnings.extend(taken.warnings)
        return taken

    async def let_go(self, snap: HeldSnapshot | None, *, renew: bool) -> None:
        """Close and remove; then renew change tracking, whose own snapshots must go, too."""
        try:
            if snap is not None:
                await snap.close()
        finally:
            await self._remove(settle=snap is None)
        if renew:
            self.warnings.append(await renew_tracking(self.vsphere, self.vm, self.owner, self.patience))
            await self._remove(settle=True)

    async def _remove(self, *, settle: bool) -> None:
        if self.vm.template:
            return
        async with self.removals.on(self.vm.datastores):
            told = await remove_ours(
                self.vsphere, self.vm, self.owner, settle=settle, patience=self.patience, consolidate=self.consolidate
            )
        self.warnings.extend(warning for warning in told if warning not in self.warnings)


async def _save_tags(vsphere: VSphere, vm: Vm, frozen: VmConfiguration) -> list[str]:
    """Tags are the VM's, no snapshot freezes them; without them a restore is still one."""
    try:
        frozen.saved["tags"] = await tags_of(vsphere, vm)
    except VSphereError as error:
        return [f"{vm.name}: its tags are not saved with the restore point: {error}"]
    return []


async def _frozen(vsphere: VSphere, vm: Vm, snapshot: str | None) -> VmConfiguration:
    return await (configuration(vsphere, vm) if snapshot is None else snapshot_configuration(vsphere, vm, snapshot))


def _small_files(frozen: VmConfiguration, manifest: str | None) -> list[str]:
    """The .vmx, and the nvram and the manifest of the VSS writers beside it.

    The nvram's name is the guest owner's to set, so only plain ones are followed.
    """
    extra = frozen.saved.get("extra_config")
    named = extra.get("nvram") if isinstance(extra, dict) else None
    folder, _, vmx = frozen.vmx_path.rpartition("/")
    nvram = str(named) if named else f"{vmx.removesuffix('.vmx')}.nvram"
    beside = [name for name in (nvram, manifest) if name and folder and "/" not in name and name not in (".", "..")]
    return [frozen.vmx_path, *(f"{folder}/{name}" for name in beside)]
