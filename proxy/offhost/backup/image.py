"""The backup of a disk image, or of a folder with a VM's files, without asking anybody.

Owns: what a point of an image says. Does not own: reading image formats (diskimage), the copy (copy).
"""

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

from offhost.backup.copy import DiskCopy, healed, map_of, settle
from offhost.backup.destination import Destination
from offhost.backup.report import DiskReport, VmReport
from offhost.clock import Clock
from offhost.diskimage.folder import open_image
from offhost.diskimage.image import DiskImage
from offhost.errors import GateClosed, UsageError
from offhost.ids import DiskKey, image_id
from offhost.repository.points.manifest import Manifest, PointDisk
from offhost.repository.points.restorepoint import RestorePoint
from offhost.repository.session import WriteSession

DiskProgress = Callable[[str, int, int], None]
"""Told a disk's label, bytes done and bytes in all; from any thread."""

_REASON = "an image has no change tracking: read whole, only new content stored"


@dataclass(frozen=True, slots=True)
class ImageBackup:
    """The backup of images under one name. `stop` ends it between two spans."""

    destination: Destination
    name: str
    clock: Clock
    progress: DiskProgress
    stop: threading.Event
    tags: tuple[str, ...] = ()
    """Put on the point; retention may keep it by them."""

    def run(self, paths: Sequence[Path]) -> VmReport:
        """Store images as one restore point. Blocking.

        Raises: NotFound, UnsupportedImage, DamagedImage, ReadFailed; GateClosed when a file changed while it was read;
        RepositoryError, BackendError; Stopped. No point exists then.
        """
        started = self.clock.now()
        tagged = {"tags": list(self.tags)} if self.tags else {}
        repository = self.destination.repository
        with ExitStack() as scope:
            disks, files = _opened(scope, paths)
            before = {key: disk.identity for key, disk in disks.items()}
            session, base = scope.enter_context(repository.session(image_id(self.name), self.destination.write_check))
            copied = {key: self._copy(session, base, key, disk) for key, disk in disks.items()}
            stored_files = self.destination.store_files(session, files)
            point = Manifest(
                id=session.id,
                vm_id=session.vm,
                vm_name=self.name,
                sequence=base.manifest.sequence + 1 if base else 1,
                predecessor=repository.points.predecessor(base.manifest) if base else None,
                time=started,
                kind="incremental" if base else "full",
                consistency="offline",
                disks=tuple(PointDisk(key, _label(disks[key]), copy.finish()) for key, (copy, _) in copied.items()),
                files=stored_files,
                origin={"kind": "image", "files": [str(path) for path in paths]} | tagged,
            )
            again: list[Callable[[], object]] = [partial(copy.run, self.stop) for copy, _ in copied.values()]
            settle(session, [*again, lambda: self.destination.store_files(session, files)], self.stop)
            _check_unchanged(paths, before)
            session.commit(point)
            warnings = healed(session, [copy for copy, _ in copied.values()])
            return self._report(point, [report for _, report in copied.values()], started, warnings)

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
            progress=lambda done, total: self.progress(_label(disk), done, total),
        )
        copy.run(self.stop)
        return copy, DiskReport(
            key=key,
            label=_label(disk),
            capacity_bytes=disk.size_bytes,
            mode="full",
            reason=_REASON,
            transport="file",
            refused=(),
            changed_bytes=None,
            read_bytes=copy.totals.read_bytes,
            new_bytes=copy.totals.new_bytes,
            stored_bytes=session.stored_bytes - stored_before,
            host_bytes=0,
        )

    def _report(
        self, point: Manifest, disks: Sequence[DiskReport], started: datetime, warnings: Sequence[str]
    ) -> VmReport:
        return VmReport(
            vm=self.name,
            vm_id=point.vm_id,
            point=point.id,
            consistency="offline",
            disks=tuple(disks),
            warnings=tuple(warnings),
            problem=None,
            started=started.isoformat(),
            ended=self.clock.now().isoformat(),
        )


def _label(disk: DiskImage) -> str:
    return disk.files[0].name


def _opened(scope: ExitStack, paths: Sequence[Path]) -> tuple[dict[DiskKey, DiskImage], dict[str, bytes]]:
    images = [scope.enter_context(open_image(path)) for path in paths]
    if len(images) == 1:
        return dict(images[0].disks), dict(images[0].side_files)
    if any(path.is_dir() for path in paths):
        raise UsageError("a VM's folder is backed up by itself", hint="name one folder, or several disks")
    disks = [disk for image in images for disk in image.disks.values()]
    return {DiskKey(f"disk{number}"): disk for number, disk in enumerate(disks)}, {}


def _check_unchanged(paths: Sequence[Path], before: dict[DiskKey, str]) -> None:
    """The files are opened anew, as somebody else would find them now."""
    with ExitStack() as scope:
        disks, _ = _opened(scope, paths)
        for key, identity in before.items():
            if key not in disks or disks[key].identity != identity:
                raise GateClosed(
                    f"{paths[0]}: changed while it was read, so that what was read may be torn",
                    hint="back up a snapshot, or an image that nothing writes to",
                )
