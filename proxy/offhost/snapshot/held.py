"""A held snapshot as a scope: inside it the VM's disks stand still and can be opened; after it nothing is left.

Owns: the order of things, and that the snapshot is removed on every way out: success, failure, cancellation, loss of
the session. Does not own: what is copied.
"""

import posixpath
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime

from offhost.aio import in_thread, shielded
from offhost.clock import Clock
from offhost.errors import (
    ChangeTrackingBroken,
    GateClosed,
    NotFound,
    OffhostError,
    SessionLost,
    TransportUnavailable,
    VmGone,
    VSphereError,
)
from offhost.snapshot.gate import check_disks
from offhost.snapshot.removal import Patience, remove_ours
from offhost.snapshot.taking import Consistency, Taken, ensure_tracking, renew_tracking, take
from offhost.transport.contract import OpenDisk, Transport, open_first
from offhost.vsphere.configuration import configuration, snapshot_configuration
from offhost.vsphere.history import reverted_within
from offhost.vsphere.session import VSphere
from offhost.vsphere.snapshots import Owner, lineage
from offhost.vsphere.tags import tags_of
from offhost.vsphere.tracking import changed_areas
from offhost.vsphere.values import ChangedBlocks, Disk, QuiescePolicy, Vm, VmConfiguration

_FILE_LIMIT_BYTES = 8 << 20
"""A .vmx has some KiB, an EFI nvram some hundred."""


class HeldSnapshot:
    """A VM's disks, frozen, for as long as the scope of `held` lasts. Of one event loop.

    `warnings` grows until the scope has ended: the removal of the snapshot adds its own.
    """

    def __init__(
        self,
        vsphere: VSphere,
        vm: Vm,
        *,
        frozen: VmConfiguration,
        taken: Taken | None,
        transports: Sequence[Transport],
        clock: Clock,
        taken_at: datetime,
    ) -> None:
        """`taken` is None for a template, which is read as it is."""
        self.vm = vm
        self.configuration = frozen
        self.taken_at = taken_at
        self.consistency: Consistency = taken.consistency if taken else "offline"
        self.lineage = lineage(taken.tree, taken.snapshot.moref) if taken else ()
        self.warnings: list[str] = list(taken.warnings) if taken else []
        self.tracking_broken = False
        """Whether vSphere failed to answer what it should have known: its journal is damaged."""
        self._vsphere, self._clock = vsphere, clock
        self._snapshot = taken.snapshot.moref if taken else None
        self._transports = transports
        self._opened: list[tuple[OpenDisk, str]] = []

    async def open(self, disk: Disk) -> OpenDisk:
        """Open a disk through the first transport that can; it is closed with the scope.

        Raises: TransportUnavailable with every transport's reason.
        """
        return await in_thread(self._open, disk)

    async def changed(self, disk: Disk, base_change_id: str) -> ChangedBlocks:
        """What changed on a disk since a base. Raises: ChangeTrackingInvalid with the reason for a full read."""
        assert self._snapshot is not None, "a template has no base: it does not change"
        try:
            return await changed_areas(
                self._vsphere, self.vm, disk, snapshot=self._snapshot, base_change_id=base_change_id
            )
        except ChangeTrackingBroken:
            self.tracking_broken = True
            raise

    async def reverted_since(self, taken_at: str) -> bool:
        """Whether the VM was, or may have been, reverted to a snapshot since the `taken_at` of an earlier one.

        A revert can leave lineage and change id as they were. When the events cannot be read, that is a warning and
        the answer is yes.
        """
        try:
            elapsed = self._clock.now() - datetime.fromisoformat(taken_at)
        except (ValueError, TypeError):
            return True
        try:
            return await reverted_within(self._vsphere, self.vm, elapsed)
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
            if await in_thread(opened.fingerprint) != fingerprint:
                raise GateClosed(
                    f"{self.vm.name}: a file of a disk was replaced while it was read",
                    hint="the VM was moved or restored meanwhile; run the backup again",
                )

    async def files(self) -> dict[str, bytes]:
        """The .vmx and nvram files by name; what cannot be had is a warning: a restore does without them."""
        return await in_thread(self._fetch_files)

    async def close(self) -> None:
        """Close the opened disks: before the snapshot is removed, and whatever they say."""
        while self._opened:
            opened, _ = self._opened.pop()
            try:
                await in_thread(opened.close)
            except OffhostError as error:
                self.warnings.append(f"{self.vm.name}: closing a disk: {error}")

    def _open(self, disk: Disk) -> OpenDisk:
        """In the thread up to the last step: a cancellation that comes meanwhile still finds the disk in the list."""
        opened = open_first(self._transports, self.vm, disk)
        try:
            self._opened.append((opened, opened.fingerprint()))
        except BaseException:
            opened.close()
            raise
        return opened

    def _fetch_files(self) -> dict[str, bytes]:
        fetched: dict[str, bytes] = {}
        for path in _small_files(self.configuration):
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
    track_changes: bool = True,
    patience: Patience = Patience(),  # noqa: B008 -- an immutable value
) -> AsyncIterator[HeldSnapshot]:
    """Hold a snapshot of a VM; a template is held as it is.

    `track_changes`: switch change tracking on first, where it is off and can be. Leaving the scope closes the disks
    and removes every snapshot that this run made of the VM, shielded from cancellation; a removal that fails is a
    warning on the held snapshot and an error in the log, and does not hide what ended the scope. A change tracking
    that turned out to be broken is renewed after a scope that ended well.
    Raises: QuiesceFailed, SnapshotFailed, PermissionDenied, VmGone and other VSphereErrors.
    """
    snap: HeldSnapshot | None = None
    known = False
    try:
        if vm.template:
            snap = await _as_it_is(vsphere, vm, transports, clock)
        else:
            snap = await _hold(
                vsphere, vm, owner, quiesce=quiesce, transports=transports, clock=clock, track=track_changes
            )
        known = True
        yield snap
    finally:
        await shielded(_let_go(vsphere, vm, owner, snap=snap, settle=not known, patience=patience))
    if snap.tracking_broken:
        snap.warnings.append(await shielded(renew_tracking(vsphere, vm, owner)))


async def _as_it_is(vsphere: VSphere, vm: Vm, transports: Sequence[Transport], clock: Clock) -> HeldSnapshot:
    frozen = await configuration(vsphere, vm)
    warnings = await _save_tags(vsphere, vm, frozen)
    snap = HeldSnapshot(
        vsphere, vm, frozen=frozen, taken=None, transports=transports, clock=clock, taken_at=clock.now()
    )
    snap.warnings.extend(warnings)
    return snap


async def _hold(
    vsphere: VSphere,
    vm: Vm,
    owner: Owner,
    *,
    quiesce: QuiescePolicy,
    transports: Sequence[Transport],
    clock: Clock,
    track: bool,
) -> HeldSnapshot:
    untracked = await ensure_tracking(vsphere, vm, owner) if track else None
    before = await configuration(vsphere, vm)
    taken_at = clock.now()  # beforehand: a revert while the guest is being quiesced counts as one since
    taken = await take(vsphere, vm, owner, quiesce, windows=before.guest_id.lower().startswith("win"))
    frozen = await _frozen(vsphere, vm, taken.snapshot.moref)
    taken.warnings.extend(await _save_tags(vsphere, vm, frozen))
    snap = HeldSnapshot(vsphere, vm, frozen=frozen, taken=taken, transports=transports, clock=clock, taken_at=taken_at)
    if untracked:
        snap.warnings.append(untracked)
    if vm.consolidation_needed:
        snap.warnings.append(f"{vm.name}: its disks need consolidation, which is left to its administrators")
    return snap


async def _save_tags(vsphere: VSphere, vm: Vm, frozen: VmConfiguration) -> list[str]:
    """Tags are the VM's, no snapshot freezes them; without them a restore is still one."""
    try:
        frozen.saved["tags"] = await tags_of(vsphere, vm)
    except VSphereError as error:
        return [f"{vm.name}: its tags are not saved with the restore point: {error}"]
    return []


async def _frozen(vsphere: VSphere, vm: Vm, snapshot: str | None) -> VmConfiguration:
    return await (configuration(vsphere, vm) if snapshot is None else snapshot_configuration(vsphere, vm, snapshot))


async def _let_go(
    vsphere: VSphere, vm: Vm, owner: Owner, *, snap: HeldSnapshot | None, settle: bool, patience: Patience
) -> None:
    if snap is not None:
        await snap.close()
    if not vm.template:
        warnings = await remove_ours(vsphere, vm, owner, settle=settle, patience=patience)
        if snap is not None:
            snap.warnings.extend(warnings)


def _small_files(frozen: VmConfiguration) -> list[str]:
    """The .vmx, and the nvram beside it: its name is the guest owner's to set, so only a plain one is followed."""
    extra = frozen.saved.get("extra_config")
    named = extra.get("nvram") if isinstance(extra, dict) else None
    folder, _, vmx = frozen.vmx_path.rpartition("/")
    nvram = str(named) if named else f"{vmx.removesuffix('.vmx')}.nvram"
    if not folder or "/" in nvram or nvram in (".", ".."):
        return [frozen.vmx_path]
    return [frozen.vmx_path, f"{folder}/{nvram}"]
