"""The copy of restore points from one repository to another.

Owns: the order in which a copied point comes to count, and that it is the same as its original. Does not own: which
point is which (lineage), the copy of a disk (replica).

A copy is a backup whose source is a disk of a point: what the maps of two points at the source say has changed between
them is read and cut anew on the destination's copy of the first. So only what changed is read, only what is missing is
stored, and the two repositories may differ in keys and cuts. A copy that is interrupted leaves chunks that the next one
finds.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial

from offhost.backup.copy import healed, settle
from offhost.backup.destination import Destination
from offhost.backup.lineage import Relation, copied_origin
from offhost.backup.replica import Base, DiskProgress, DiskReplica, of_repository
from offhost.backup.report import CopyState, PointCopy, Problem
from offhost.backup.seen import SeenPoints
from offhost.clock import rfc3339
from offhost.errors import BackendError, Conflict, IntegrityError, NotFound, OffhostError, Stopped, UsageError
from offhost.ids import VmId
from offhost.repository.points.manifest import Manifest
from offhost.repository.points.restorepoint import RestorePoint
from offhost.repository.repository import Repository
from offhost.repository.session import WriteSession

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Replication:
    """Copies points; for one thread. `stop` ends it between two spans."""

    source: Repository
    destination: Destination
    progress: DiskProgress
    stop: threading.Event
    _here: SeenPoints = field(init=False)
    _there: SeenPoints = field(init=False)

    def __post_init__(self) -> None:
        if self.source.config.repository_id == self.destination.repository.config.repository_id:
            raise UsageError(
                "a repository cannot be copied into itself", hint="make another: `offhost repo init --like THIS_ONE`"
            )
        self._here, self._there = SeenPoints(self.source), SeenPoints(self.destination.repository)

    def wanted(self, vms: Sequence[str]) -> tuple[list[Manifest], list[IntegrityError]]:
        """What is to be copied of these VMs, by name or identity, or of all: the oldest first within a VM; and which
        points of the source do not open.

        Raises: NotFound for a VM that the source has no point of.
        """
        points, damaged = self.source.points.read()
        known = {name for point in points for name in (point.vm_name, point.vm_id)}
        if unknown := [vm for vm in vms if vm not in known]:
            raise NotFound(f"{unknown[0]}: the source has no point of a VM of that name", hint="`offhost points list`")
        chosen = {point.vm_id for point in points if not vms or point.vm_name in vms or point.vm_id in vms}
        return [point for vm in sorted(chosen) for point in self.relation(vm).wanted(missed_too=True)], damaged

    def relation(self, vm: VmId) -> Relation:
        """One VM's points on both sides, as they are now."""
        points, _, _ = self._here.of(vm)
        copies, forgotten, gone = self._there.of(vm)
        return Relation(
            source=self.source.config.repository_id.hex(),
            destination=self.destination.repository.config.repository_id.hex(),
            points=points,
            copies=copies,
            forgotten=forgotten,
            gone=gone,
        )

    def planned(self, points: Sequence[Manifest], told: Callable[[PointCopy], object]) -> list[PointCopy]:
        """What `run` would do, touching nothing."""
        done = []
        for point in points:
            twins = self.relation(point.vm_id).copies_of(point)
            done.append(replace(described(point, "there"), copy=twins[0].id) if twins else described(point, "planned"))
            told(done[-1])
        return done

    def run(self, points: Sequence[Manifest], told: Callable[[PointCopy], object]) -> list[PointCopy]:
        """Copy points in the order given; `told` hears of each as it is done with.

        A point that fails does not keep the others from being tried, unless a store itself failed. Raises: Stopped.
        """
        done: list[PointCopy] = []
        broken = False
        for point in points:
            report = described(point, "left")
            if not broken:
                try:
                    report = self.copy(point)
                except Stopped:
                    raise
                except OffhostError as error:
                    broken = isinstance(error, BackendError)
                    problem = Problem(error.code, str(error), error.hint)
                    report = replace(described(point, "failed"), problem=problem)
            done.append(report)
            told(report)
        return done

    def copy_due(self, vm: VmId, point: str) -> tuple[tuple[PointCopy, ...], datetime | None]:
        """Copy what is due after a backup of a VM has made a point; and when its newest point there was taken.

        Raises: NotFound when the point is gone; BackendError; Stopped.
        """
        relation = self.relation(vm)
        made = next((one for one in relation.points if one.id == point), None)
        if made is None:
            raise NotFound(f"point {point[:12]} is not there any more")
        done = self.run(relation.due(made), lambda _: None)
        newest = max((copy.time for copy in self.destination.repository.points.of(vm)), default=None)
        return tuple(done), newest

    def copy(self, point: Manifest) -> PointCopy:
        """Copy one point, unless the destination has it; one that was forgotten there is copied again.

        Raises: IntegrityError when the source, or what arrived, is damaged; Conflict when the point is being collected;
        SessionFenced; BackendError; Stopped. No point exists at the destination then.
        """
        repository = self.destination.repository
        with (
            self.source.reading(point) as original,
            repository.session(point.vm_id, self.destination.write_check) as (session, latest),
        ):
            relation = self.relation(point.vm_id)
            if twins := relation.copies_of(point):
                return replace(described(point, "there"), copy=twins[0].id)
            with self._base(relation, point, latest) as base:
                replica = _PointReplica(self, original, base, session)
                arrived = replica.arrived()
                copy = session.commit(
                    replace(
                        arrived,
                        sequence=relation.sequence_for(point),
                        predecessor=repository.points.predecessor(latest.manifest) if latest else None,
                        origin=copied_origin(relation.source, point, relation.missed_before(point)),
                    )
                )
        return replica.report(self._kept(point, copy))

    @contextmanager
    def _base(self, relation: Relation, point: Manifest, latest: RestorePoint | None) -> Iterator[Base]:
        """The point whose difference from this one is to be copied, held at the source; else the destination's latest,
        which lends its leaves.
        """
        twins = relation.nearest_twins(point)
        if twins is None:
            yield Base(latest)
            return
        with ExitStack() as held:
            original = None
            with suppress(Conflict):  # the source's collector is about to remove it
                original = held.enter_context(self.source.reading(twins.original))
            yield Base(self.destination.repository.restore_point(twins.copy), original)

    def _kept(self, point: Manifest, copy: Manifest) -> str:
        """The copy that counts, when somebody else copied the point at the same time: the others are forgotten.

        Each copier lists what is there after it put its own, so whoever comes last sees all, and all choose alike.
        """
        kept, *others = self.relation(point.vm_id).copies_of(point) or [copy]  # forgotten already, by retention there
        for other in others:
            self.destination.repository.marks.forget(other.id, f"copied twice at the same time: {kept.id} is the same")
        return kept.id


def described(point: Manifest, state: CopyState) -> PointCopy:
    """A point's report before anything was done."""
    return PointCopy(point.vm_name, point.vm_id, point.id, rfc3339(point.time), state)


class _PointReplica:
    """One point on its way."""

    def __init__(self, of: Replication, original: RestorePoint, base: Base, session: WriteSession) -> None:
        self._of, self._original, self._session = of, original, session
        self._disks = [
            DiskReplica(of.source, of.destination, original, disk, base, session, of.progress)
            for disk in original.manifest.disks
        ]

    def arrived(self) -> Manifest:
        """Copy the content, make it durable and compare it; the point it belongs to, which does not exist yet.

        What reads back wrong counts as missing from then on, so a second round puts it there anew.
        Raises: IntegrityError; SessionFenced; BackendError; Stopped.
        """
        copied = self._stored()
        try:
            self._check(copied)
        except IntegrityError as error:
            _log.warning("%s; what reads back wrong is copied once more", error)
            copied = self._stored()
            self._check(copied)
        return copied

    def _stored(self) -> Manifest:
        destination = self._of.destination
        with of_repository(self._of.source):
            files = {file.name: self._original.file(file) for file in self._original.manifest.files}
        again: list[Callable[[], object]] = [partial(disk.copy.run, self._of.stop) for disk in self._disks]
        again.append(lambda: destination.store_files(self._session, files))
        for store in again:
            store()
        copied = replace(
            self._original.manifest,
            id=self._session.id,
            disks=tuple(replace(disk.disk, map=disk.copy.finish()) for disk in self._disks),
            files=destination.store_files(self._session, files),
            totals={},
            sound_under=self._session.sound_under,
        )
        settle(self._session, again, self._of.stop)
        return copied

    def _check(self, copied: Manifest) -> None:
        repository = self._of.destination.repository
        arrived = repository.restore_point(copied)
        for disk in self._disks:
            disk.check(arrived, self._of.stop)
        with of_repository(repository):
            for file in copied.files:
                arrived.file(file)

    def report(self, copy: str) -> PointCopy:
        """What it amounted to."""
        copies = [disk.copy for disk in self._disks]
        whole = [f"{disk.label} was read in full: {disk.reason}" for disk in self._disks if disk.reason]
        return replace(
            described(self._original.manifest, "copied"),
            copy=copy,
            read_bytes=sum(copy.totals.read_bytes for copy in copies),
            new_bytes=sum(copy.totals.new_bytes for copy in copies),
            stored_bytes=self._session.stored_bytes,
            notes=(*whole, *healed(self._session, copies)),
        )
