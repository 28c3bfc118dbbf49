"""The backup of disk images: files that anybody may name, or that a VM's folder holds, without asking vSphere.

Owns: the order of such a backup, what its point says. Does not own: which images (`Images`), reading their formats
(diskimage), the copy (copy).
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from offhost.backup.copy import DiskCopy, healed, map_of, settle
from offhost.backup.destination import Destination
from offhost.backup.report import Consistency, DiskReport, VmReport
from offhost.clock import Clock
from offhost.diskimage.folder import open_image
from offhost.diskimage.image import DiskImage
from offhost.errors import GateClosed, Stopped, UsageError
from offhost.ids import DiskKey, VmId, image_id
from offhost.pacing import UNBOUND, Paces
from offhost.repository.points.manifest import Manifest, PointDisk
from offhost.repository.points.restorepoint import RestorePoint
from offhost.repository.session import WriteSession

DiskProgress = Callable[[str, int, int], None]
"""Told a disk's label, bytes done and bytes in all; from any thread."""

WHOLE = "an image has no change tracking: read whole, only new content stored"
"""Why every disk is read in full."""


@dataclass(frozen=True, slots=True)
class OpenImages:
    """Disks, open, and the small files that belong to them."""

    disks: Mapping[DiskKey, DiskImage]
    files: Mapping[str, bytes] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Stamp:
    """What tells whether a disk was replaced, built otherwise, or written to between two openings."""

    structure: str
    identity: str
    written: Mapping[str, str]


def stamps(images: OpenImages) -> dict[DiskKey, Stamp]:
    """The disks as they were when they were opened."""
    return {key: Stamp(disk.structure, disk.identity, disk.written) for key, disk in images.disks.items()}


Verdict = tuple[Consistency, tuple[str, ...]]
"""The level that a backup has reached, and what must be said of it."""


class Images(Protocol):
    """What is backed up as one machine."""

    @property
    def vm_id(self) -> VmId:
        """Whose points they become."""
        ...

    @property
    def name(self) -> str:
        """What the points are listed under."""
        ...

    @property
    def origin(self) -> dict[str, Any]:
        """What a point says of where it comes from."""
        ...

    def open(self, scope: ExitStack) -> OpenImages:
        """Open them as anybody would find them now; `scope` closes them."""
        ...

    def doubts(self, last: Manifest) -> tuple[str, ...]:
        """What must be said when this follows on that point."""
        ...

    def verdict(self, before: Mapping[DiskKey, Stamp], after: Mapping[DiskKey, Stamp]) -> Verdict:
        """What was reached. Raises: GateClosed when what was read is not to be kept."""
        ...


@dataclass(frozen=True, slots=True)
class ImageFiles:
    """Images that an operator names: files, or one folder of a VM. Nobody may write to them meanwhile."""

    name: str
    paths: Sequence[Path]

    @property
    def vm_id(self) -> VmId:
        """By the name alone."""
        return image_id(self.name)

    @property
    def origin(self) -> dict[str, Any]:
        """The files, as they were named."""
        return {"kind": "image", "files": [str(path) for path in self.paths]}

    def open(self, scope: ExitStack) -> OpenImages:
        """Raises: NotFound, UnsupportedImage, DamagedImage, DiskImageError; UsageError for a folder among others."""
        images = [scope.enter_context(open_image(path)) for path in self.paths]
        if len(images) == 1:
            return OpenImages(images[0].disks, images[0].side_files)
        if any(path.is_dir() for path in self.paths):
            raise UsageError("a VM's folder is backed up by itself", hint="name one folder, or several disks")
        disks = [disk for image in images for disk in image.disks.values()]
        return OpenImages({DiskKey(f"disk{number}"): disk for number, disk in enumerate(disks)})

    def doubts(self, last: Manifest) -> tuple[str, ...]:
        """None: a name means what the operator wants it to mean."""
        return ()

    def verdict(self, before: Mapping[DiskKey, Stamp], after: Mapping[DiskKey, Stamp]) -> Verdict:
        """All or nothing."""
        for key, stamp in before.items():
            if key not in after or after[key].identity != stamp.identity:
                raise GateClosed(
                    f"{self.paths[0]}: changed while it was read, so that what was read may be torn",
                    hint="back up a snapshot, or an image that nothing writes to",
                )
        return "offline", ()


@dataclass(frozen=True, slots=True)
class ImageBackup:
    """The backup of images. `stop` ends it between two spans."""

    destination: Destination
    clock: Clock
    progress: DiskProgress
    stop: threading.Event
    tags: tuple[str, ...] = ()
    """Put on the point; retention may keep it by them."""
    gate: Callable[[], None] = lambda: None
    """Raises, before the point is committed, what forbids it."""
    paces: Paces = UNBOUND
    """How fast disks are read."""

    def run(self, images: Images) -> VmReport:
        """Store images as one restore point. Blocking.

        Raises: NotFound, UnsupportedImage, DamagedImage, ReadFailed; GateClosed when a file changed while it was read
        that must not; what the gate raises; RepositoryError, BackendError; Stopped. No point exists then.
        """
        started = self.clock.now()
        repository = self.destination.repository
        with ExitStack() as scope:
            opened = images.open(scope)
            before = stamps(opened)
            session, base = scope.enter_context(repository.session(images.vm_id, self.destination.write_check))
            copied = {key: self._copy(session, base, key, disk) for key, disk in opened.disks.items()}
            stored_files = self.destination.store_files(session, opened.files)
            disks = tuple(PointDisk(key, _label(opened.disks[key]), copy.finish()) for key, (copy, _) in copied.items())
            again: list[Callable[[], object]] = [partial(copy.run, self.stop) for copy, _ in copied.values()]
            settle(session, [*again, lambda: self.destination.store_files(session, opened.files)], self.stop)
            self.gate()
            consistency, said = images.verdict(before, _as_they_are_now(images))
            if self.stop.is_set():  # a look that hung has come back, and nobody waits for the point any more
                raise Stopped(f"{images.name}: the backup was stopped")
            point = Manifest(
                id=session.id,
                vm_id=session.vm,
                vm_name=images.name,
                sequence=base.manifest.sequence + 1 if base else 1,
                predecessor=repository.points.predecessor(base.manifest) if base else None,
                time=started,
                kind="incremental" if base else "full",
                consistency=consistency,
                disks=disks,
                files=stored_files,
                origin=images.origin | ({"tags": list(self.tags)} if self.tags else {}),
            )
            session.commit(point)
            doubts = images.doubts(base.manifest) if base else ()
            healing = healed(session, [copy for copy, _ in copied.values()])
            return VmReport(
                vm=images.name,
                vm_id=point.vm_id,
                point=point.id,
                consistency=consistency,
                disks=tuple(report for _, report in copied.values()),
                warnings=(*opened.warnings, *doubts, *said, *healing),
                problem=None,
                started=started.isoformat(),
                ended=self.clock.now().isoformat(),
            )

    def _copy(
        self, session: WriteSession, base: RestorePoint | None, key: DiskKey, disk: DiskImage
    ) -> tuple[DiskCopy, DiskReport]:
        stored_before = session.stored_bytes
        copy = DiskCopy(
            disk,
            session,
            self.destination.chunking,
            self.destination.workers,
            base=map_of(base, key),
            paces=self.paces,
            progress=lambda done, total: self.progress(_label(disk), done, total),
        )
        copy.run(self.stop)
        return copy, DiskReport(
            key=key,
            label=_label(disk),
            capacity_bytes=disk.size_bytes,
            mode="full",
            reason=WHOLE,
            transport="file",
            refused=(),
            changed_bytes=None,
            read_bytes=copy.totals.read_bytes,
            new_bytes=copy.totals.new_bytes,
            stored_bytes=session.stored_bytes - stored_before,
            host_bytes=0,
        )


def _label(disk: DiskImage) -> str:
    return disk.files[0].name


def _as_they_are_now(images: Images) -> dict[DiskKey, Stamp]:
    """Opened anew, as somebody else would find them: that makes a network file system ask its server, too."""
    with ExitStack() as scope:
        return stamps(images.open(scope))
