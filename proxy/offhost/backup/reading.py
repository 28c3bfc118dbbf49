"""How each disk of a VM is read in one run: whole, or what changed and since when, and audited or not; and why.

Owns: the choice of mode and base. Does not own: the doubts themselves (base), the reading (copy), the comparison
(audit).
"""

from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from offhost.aio import in_thread
from offhost.backup.audit import AuditPolicy, AuditRead, Comparison
from offhost.backup.base import ReadMode, base_disk, due, full_due_reason, full_read_reason, last_full
from offhost.backup.copy import map_of
from offhost.backup.destination import Destination
from offhost.errors import ChangeTrackingInvalid
from offhost.extents import ExtentMap
from offhost.repository.chunks.packs import Kind
from offhost.repository.points.diskmap import DiskMap
from offhost.repository.points.manifest import PointDisk
from offhost.repository.points.restorepoint import RestorePoint
from offhost.snapshot.held import HeldSnapshot
from offhost.vsphere.values import Disk


@dataclass(frozen=True, slots=True)
class ReadPolicy:
    """How the job wants disks read: its mode, how often in full all the same (None: never), how often audited."""

    mode: ReadMode = "incremental"
    full_every: timedelta | None = None
    audit: AuditPolicy = field(default_factory=AuditPolicy)

    @property
    def full_reason(self) -> str | None:
        """Why every disk is read in full; None when each decides for itself."""
        return "the job reads in full" if self.mode == "full" else None


@dataclass(frozen=True, slots=True)
class Reading:
    """How one disk is read, and why."""

    mode: ReadMode
    reason: str | None
    """Why it is read in full."""
    base: DiskMap | None
    """What its map is built on, as far as there is anything of use."""
    areas: ExtentMap | None
    """What changed since the base; None: all of the disk is read."""
    known: PointDisk | None
    """The disk in the last point."""
    audit: AuditRead | None = None
    """How much of what is said to be unchanged is compared with the base."""
    claimed: ExtentMap | None = None
    """What changed since the base as change tracking says, for an audit of a disk that is read in full."""

    def compared(self, destination: Destination) -> Comparison | None:
        """What an audit compares the disk with; None when none is due."""
        changed = self.claimed if self.areas is None else self.areas
        if self.audit is None or self.base is None or changed is None:
            return None
        reader = destination.repository.reader
        return Comparison(
            self.base, changed, destination.chunking.id_key, lambda chunk: reader.read_one(chunk, Kind.CONTENT)
        )

    def disbelieved(self) -> "Reading":
        """The same disk after a sample found a lie: read in full, and compared as a whole."""
        reason = "change tracking did not report all that changed, as an audit found"
        return replace(self, mode="full", reason=reason, areas=None, audit="all", claimed=self.areas)

    def times(self, now: str) -> dict[str, str | None]:
        """When the disk was last read in full, and last audited; what is read in full relies on nothing of before."""
        before: dict[str, Any] = self.known.source if self.known else {}
        full_at = now if self.mode == "full" else _text(before.get("full_at"))
        audited = self.mode == "full" or self.audit is not None
        return {"full_at": full_at, "audited_at": now if audited else _text(before.get("audited_at"))}


@dataclass(frozen=True, slots=True)
class Readings:
    """The disks of one VM's run. `latest` is the VM's last point."""

    policy: ReadPolicy
    destination: Destination
    snap: HeldSnapshot
    latest: RestorePoint | None

    async def of(self, disk: Disk) -> Reading:
        """How to read one disk of the snapshot. Raises: RepositoryError, VSphereError."""
        known = base_disk(self.latest.manifest.disks, disk.key) if self.latest else None
        chosen = self.policy.full_reason or full_due_reason(known, self.policy.full_every, self.snap.taken_at)
        since, lost = await self._base(known) if not chosen else (self.latest, None)
        before = await in_thread(map_of, since, disk.key)
        whole = Reading("full", chosen or lost, before, areas=None, known=known)
        if lost or self.policy.mode == "full":
            return whole
        base = base_disk(since.manifest.disks, disk.key) if since else None
        areas, doubt = await self._areas(disk, base, readable=before is not None)
        if doubt:
            return replace(whole, reason=chosen or doubt)
        if chosen:
            return replace(whole, audit="all", claimed=areas)
        audit = self._audit(known)
        if audit == "all":
            return replace(whole, reason="an audit of change tracking reads all of it", audit=audit, claimed=areas)
        return Reading(self.policy.mode, None, before, areas, known, audit=audit)

    def _audit(self, known: PointDisk | None) -> AuditRead | None:
        audit = self.policy.audit
        if known is None or not due(known.source.get("audited_at"), audit.every, self.snap.taken_at):
            return None
        return audit.read

    async def _base(self, known: PointDisk | None) -> tuple[RestorePoint | None, str | None]:
        """The point whose map and change id are built on; the last one, with the reason, when a full one is wanted and
        there is none: its leaves are still worth sharing.
        """
        if self.policy.mode != "differential" or known is None or self.latest is None:
            return self.latest, None
        repository = self.destination.repository
        full, lost = await in_thread(last_full, repository.points.newest_first(self.latest.manifest.vm_id), known)
        return (repository.restore_point(full), None) if full else (self.latest, lost)

    async def _areas(
        self, disk: Disk, base: PointDisk | None, *, readable: bool
    ) -> tuple[ExtentMap | None, str | None]:
        """What changed since a base, or None for all of the disk and the reason."""
        template, reverted = self.snap.vm.template, False
        if base is not None and not template:
            reverted = await self.snap.reverted_since(str(base.source.get("taken_at", "")))
        reason = full_read_reason(
            disk,
            base,
            lineage=self.snap.lineage,
            cutter=self.destination.chunking.cutter.identity,
            reverted=reverted,
            readable=readable,
            template=template,
        )
        if reason or base is None:
            return None, reason
        try:
            return await self.snap.changed(disk, str(base.source["change_id"])), None
        except ChangeTrackingInvalid as error:
            return None, error.message


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
