"""The backup of a VM's folder on a mounted datastore.

Owns: whose points it makes, and the level that reading files in use can honestly be said to reach. Does not own: the
copy (image), the VM's folder (diskimage.machine), switching the VM off before (powered_off).
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offhost.aio import Abandon, in_own_thread
from offhost.backup.destination import Destination
from offhost.backup.image import WHOLE, DiskProgress, ImageBackup, OpenImages, Stamp, Verdict
from offhost.backup.report import DiskPlan, Problem, VmPlan, VmReport
from offhost.clock import Clock
from offhost.diskimage.folder import open_folder
from offhost.diskimage.machine import IdentifiedBy, machine, signs_of_running, small_files
from offhost.errors import GateClosed, OffhostError
from offhost.ids import DiskKey, VmId, folder_id
from offhost.pacing import UNBOUND, Paces
from offhost.repository.points.manifest import Manifest
from offhost.snapshot.held import HUNG_AFTER_S

_log = logging.getLogger(__name__)

_SHOWN = 5
_BETTER = "use consistency: power_off, or kind: image"


@dataclass(frozen=True, slots=True)
class VmFolder:
    """A VM's folder, as a job backs it up."""

    path: Path
    name: str
    vmx: str | None
    identified_by: IdentifiedBy
    uuid: str | None
    """None when it is identified by its path."""
    datastores: tuple[str, ...] = ()
    host: str = ""

    @property
    def id(self) -> VmId:
        """By the UUID that vCenter gave the VM; else by its BIOS's, which a copied VM shares; else by its path."""
        return folder_id(self.uuid or str(self.path))


def vm_folder(path: Path) -> VmFolder:
    """Who lies in a folder. Blocking. Raises: as `diskimage.machine` does."""
    found = machine(path)
    uuid = None if found.identified_by == "path" else found.identity
    return VmFolder(found.path, found.name, found.vmx, found.identified_by, uuid)


@dataclass(frozen=True, slots=True)
class FolderImages:
    """A VM's folder as images to back up.

    `switched_off`: nobody may write to the disks, and any change means that somebody did. Otherwise the folder is taken
    as it is, and what that amounts to is told.
    """

    folder: VmFolder
    made_by: Mapping[str, Any]
    """The job, the installation and the run, for the points."""
    switched_off: bool
    running: Sequence[str]
    """What showed, before anything was read, that the VM may be running, or is suspended."""

    @property
    def vm_id(self) -> VmId:
        """The folder's."""
        return self.folder.id

    @property
    def name(self) -> str:
        """The VM's."""
        return self.folder.name

    @property
    def origin(self) -> dict[str, Any]:
        """Where it was read, and how its VM was recognised."""
        folder = self.folder
        return {
            "kind": "directory",
            **self.made_by,
            "path": str(folder.path),
            "identified_by": folder.identified_by,
            "uuid": folder.uuid,
        }

    def open(self, scope: ExitStack) -> OpenImages:
        """Raises: NotFound, UnsupportedImage, DamagedImage, DiskImageError."""
        disks = scope.enter_context(open_folder(self.folder.path)).disks
        beside = small_files(self.folder.path)
        return OpenImages(disks, beside.contents, beside.left_out)

    def doubts(self, last: Manifest) -> tuple[str, ...]:
        """A folder that was copied has the UUIDs of the other."""
        before = last.origin.get("path")
        if before in (None, str(self.folder.path)):
            return ()
        doubt = (
            f"its last restore point was read from {before!r:.200}: if both are VMs of their own, give one another "
            f"{self.folder.identified_by}, or their restore points make one history"
        )
        return (doubt,)

    def verdict(self, before: Mapping[DiskKey, Stamp], after: Mapping[DiskKey, Stamp]) -> Verdict:
        """Raises: GateClosed when a disk was replaced, or a snapshot came or went: what was read is of two disks.

        Unwritten files nobody has open are `offline`. With signs of a running VM they are `crash`: as they all were at
        one moment. Files that were written to meanwhile are `torn`, and that a file system may be slow to tell of
        writes makes both a best case.
        """
        path = self.folder.path
        if before.keys() != after.keys() or any(after[key].structure != before[key].structure for key in before):
            raise GateClosed(
                f"{path}: a disk was replaced, or a snapshot made or removed, while it was read",
                hint="run the job again when nothing else works on the VM, or back it up through vCenter",
            )
        written = _written_to(before, after)
        if self.switched_off:
            return self._off(written)
        running = sorted({*self.running, *signs_of_running(path)})
        if written:
            torn = (
                f"{_some(written)} changed while read: what was read is of many moments, not even crash-consistent, and"
            )
            return "torn", (f"{torn} file systems in it may be damaged; {_BETTER}",)
        if running:
            signs = f"the VM may be running or suspended ({_some(running)}): crash-consistent at best, as far as the"
            return "crash", (f"{signs} file system tells of writes; {_BETTER}",)
        return "offline", ()

    def _off(self, written: Sequence[str]) -> Verdict:
        if written:
            raise GateClosed(
                f"{self.folder.path}: {_some(written)} were written to although the VM was switched off for the backup",
                hint="find out what else writes to the VM's disks",
            )
        return "offline", ()


def folder_plan(folder: VmFolder, *, switched_off: bool) -> VmPlan:
    """What a backup would do to each disk. A failure to find out is in the plan. Blocking."""
    reason = f"{WHOLE}; the VM is shut down meanwhile, if it runs" if switched_off else WHOLE
    try:
        with open_folder(folder.path) as opened:
            disks = tuple(
                DiskPlan(key, disk.files[0].name, disk.size_bytes, "full", reason, "file", ())
                for key, disk in opened.disks.items()
            )
    except OffhostError as error:
        return VmPlan(folder.name, folder.id, (), Problem(error.code, str(error), error.hint))
    return VmPlan(folder.name, folder.id, disks, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderBackup:
    """One run's way of backing VMs' folders up."""

    destination: Destination
    clock: Clock
    made_by: Mapping[str, Any]
    """The job, the installation and the run: retention goes by them."""
    progress: DiskProgress
    on_cancelled: Callable[[VmReport], None]
    """Told of a point that was committed before the cancellation came."""
    tags: tuple[str, ...] = ()
    paces: Paces = UNBOUND
    """How fast disks are read."""
    hung_after_s: float = HUNG_AFTER_S
    """How long after a cancellation a read that does not come back is waited for: the VM may be off meanwhile."""

    async def run(self, folder: VmFolder, *, gate: Callable[[], None] | None = None) -> VmReport:
        """Back up a folder, which the caller has claimed; with a gate, one whose VM was switched off for it.

        Raises: as `ImageBackup.run` does.
        """
        stop = threading.Event()
        done: list[VmReport] = []

        def backed_up() -> VmReport:
            images = FolderImages(folder, self.made_by, gate is not None, signs_of_running(folder.path))
            check = gate or (lambda: None)
            backup = ImageBackup(self.destination, self.clock, self.progress, stop, self.tags, check, self.paces)
            done.append(backup.run(images))
            return done[0]

        try:
            return await in_own_thread(backed_up, interrupt=stop.set, abandon=self._abandon(folder))
        except asyncio.CancelledError:
            for report in done:
                self.on_cancelled(report)
            raise

    def _abandon(self, folder: VmFolder) -> Abandon:
        def told() -> None:
            _log.error("%s: a read does not come back; its thread and files are left to themselves", folder.path)
            self.destination.workers.give_up_hung()

        return Abandon(self.hung_after_s, told)


def _written_to(before: Mapping[DiskKey, Stamp], after: Mapping[DiskKey, Stamp]) -> list[str]:
    return sorted(
        {
            name
            for key, stamp in before.items()
            for name, was in stamp.written.items()
            if after[key].written[name] != was
        }
    )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
