"""A disk of a VM on its way into a restore point: what its run, its point and its administrators are told of it.

Does not own: the copy (copy), nor what was read of it and why (reading, audit).
"""

from dataclasses import dataclass

from offhost.backup.audit import Audited
from offhost.backup.base import source_of, still_lies
from offhost.backup.copy import DiskCopy
from offhost.backup.reading import Reading
from offhost.backup.report import DiskReport
from offhost.extents import ExtentMap
from offhost.repository.points.manifest import PointDisk
from offhost.snapshot.held import HeldSnapshot
from offhost.transport.contract import OpenDisk, described
from offhost.vsphere.values import Disk


@dataclass(slots=True)
class CopiedDisk:
    """A disk that is on its way into the repository."""

    disk: Disk
    opened: OpenDisk
    copy: DiskCopy
    reading: Reading
    audited: Audited | None
    """What a sample of unchanged areas showed."""
    stored_bytes: int = 0

    @property
    def unreported(self) -> ExtentMap:
        """What changed without change tracking saying so."""
        return self.copy.unreported.union(self.audited.unreported if self.audited else ExtentMap())

    def report(self) -> DiskReport:
        """What its run says of it."""
        return DiskReport(
            key=self.disk.key,
            label=self.disk.label,
            capacity_bytes=self.disk.capacity_bytes,
            mode=self.reading.mode,
            reason=self.reading.reason,
            transport=self.opened.transport,
            refused=described(self.opened.refused),
            changed_bytes=self.reading.areas.total_bytes if self.reading.areas is not None else None,
            read_bytes=self.copy.totals.read_bytes,
            new_bytes=self.copy.totals.new_bytes,
            stored_bytes=self.stored_bytes,
            host_bytes=self.opened.host_bytes(),
            audited_bytes=self._audited_bytes(),
            unreported_bytes=self.unreported.total_bytes,
        )

    def _audited_bytes(self) -> int | None:
        if self.copy.audit is not None:
            return self.disk.capacity_bytes - self.copy.audit.changed.total_bytes
        return self.audited.compared_bytes if self.audited else None

    def of_point(self, snap: HeldSnapshot) -> PointDisk:
        """Its place in the manifest; stores what is left of its map."""
        reading = self.reading
        source = source_of(
            self.disk,
            snap.lineage,
            snap.endpoint_time.isoformat(),
            mode=reading.mode,
            lied=bool(self.unreported) or still_lies(self.disk, reading.known),
            **reading.times(snap.taken_at.isoformat()),
        )
        return PointDisk(self.disk.key, self.disk.label, self.copy.finish(), source.to_json())

    def lie(self, vm_name: str) -> str:
        """What an administrator is told of a lie: where it was, and which restore points it may have harmed."""
        known, first = self.reading.known, next(iter(self.unreported))
        since = str(known.source.get("audited_at") or "") if known else ""
        lost_mib = self.unreported.total_bytes / (1 << 20)
        harmed = f"those after {since:.19}" if since else "those after the last full read"
        return (
            f"{vm_name}: {self.disk.label}: change tracking lied: {lost_mib:.1f} MiB that had changed were not "
            f"reported, from byte {first.start} on; the disk was read in full and this restore point is right, but "
            f"{harmed} may hold old content there"
        )
