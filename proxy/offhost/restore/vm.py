"""A whole VM back into vSphere: its disks created, written and checked, the VM registered last, powered off.

Owns: that order, and that a restore that ends early leaves nothing registered and no file. Does not own: how a target
is written (transport), what a saved configuration becomes (vsphere.registration).
"""

import logging
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from offhost.aio import in_own_thread, in_thread, shielded
from offhost.blockio import ReadAt
from offhost.chunking.spans import SPAN_BYTES
from offhost.chunking.workers import SpanWorkers
from offhost.diskimage import flat_descriptor
from offhost.errors import Conflict, NotFound, OffhostError, RestoreFailed, Stopped, UsageError
from offhost.ids import DiskKey
from offhost.repository.points.manifest import PointDisk
from offhost.repository.points.restorepoint import RestorePoint
from offhost.transport.datastore import Mount
from offhost.transport.https import HttpsTransport
from offhost.transport.targets import DatastoreTarget, HttpsTarget, RestoreTarget
from offhost.vsphere.changes import Actor, acting
from offhost.vsphere.configuration import configuration
from offhost.vsphere.folder import FolderAccess
from offhost.vsphere.inventory import datastores, vms
from offhost.vsphere.registration import Created, create_vm, delete_path, make_directory, unregister_vm
from offhost.vsphere.session import VSphere
from offhost.vsphere.values import Vm

_log = logging.getLogger(__name__)

_LIMIT_NAME = 80
"""vSphere's own limit for the name of a VM, in characters."""
_LIMIT_NAME_BYTES = 200
"""File systems allow 255 for the name of a file, and `_12-flat.vmdk` is added to this one."""
_UNFIT = re.compile(r'[/\\%"\[\]]')
"""What means something in datastore paths, descriptors or vSphere's names."""

DiskProgress = Callable[[str, int, int], None]
"""Told a disk's label, bytes done and bytes in all; from any thread."""


@dataclass(frozen=True, slots=True)
class RestoredVm:
    """A VM that was restored, powered off. Bytes are the disks' sizes; `host_bytes` went through an ESX host."""

    vm: Vm
    transport: str
    disks: Mapping[DiskKey, str]
    size_bytes: int
    host_bytes: int
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class VmRestore:
    """Restores VMs over one session. `mounts` are the datastores that this proxy has mounted, by name."""

    vsphere: VSphere
    folder_access: FolderAccess
    mounts: Mapping[str, Mount]
    workers: SpanWorkers
    progress: DiskProgress

    async def run(
        self, point: RestorePoint, *, new_name: str, datastore: str | None = None, folder: str | None = None
    ) -> RestoredVm:
        """Make a new VM of a point. `datastore` and `folder` (an inventory path) are by default the old VM's.

        Raises: Conflict when the name is taken; NotFound, UsageError; TransportError, VSphereError; IntegrityError.
        Nothing is registered and no file is left then, nor after a cancellation.
        """
        _check_name(new_name)
        saved = point.manifest.vm_config
        if saved is None:
            raise UsageError(
                f"point {point.manifest.id[:12]} is of an image: there is no VM to make of it",
                hint="`offhost restore disk` gives its disks back",
            )
        where = datastore or str(point.manifest.disks[0].source.get("datastore", ""))
        await self._free(new_name, where)
        work = _Restore(self, point, saved, directory=f"[{where}] {new_name}", folder=folder)
        with acting(Actor("restore"), within_others=True):
            try:
                return await work.execute(self.mounts.get(where))
            except BaseException:
                await shielded(work.undo())
                raise

    async def _free(self, name: str, datastore: str) -> None:
        """Raise unless the name is free and the datastore there."""
        if any(vm.name == name for vm in await vms(self.vsphere)):
            raise Conflict(f"there is a VM {name} already", hint="choose another --new-name")
        known = [found.name for found in await datastores(self.vsphere)]
        if datastore not in known:
            raise NotFound(
                f"there is no datastore {datastore!r}", hint=f"choose one with --datastore: {', '.join(sorted(known))}"
            )


class _Restore:
    """One VM's way back. `undo` takes back whatever `execute` has done so far."""

    def __init__(
        self, scope: VmRestore, point: RestorePoint, saved: Mapping[str, Any], *, directory: str, folder: str | None
    ) -> None:
        self._name = directory.partition("] ")[2]
        self._scope, self._point, self._saved = scope, point, saved
        self._directory, self._folder = directory, folder
        self._stop = threading.Event()
        self._made_directory = False
        self._registering = False
        self._host_bytes = 0

    async def execute(self, mount: Mount | None) -> RestoredVm:
        await shielded(self._make_directory())
        target = self._target(mount)
        await in_thread(target.check)
        disks: dict[DiskKey, str] = {}
        for number, disk in enumerate(self._point.manifest.disks):
            file = f"{self._name}{f'_{number}' if number else ''}.vmdk"
            await in_own_thread(self._write, target, file, disk, interrupt=self._stop.set)
            disks[disk.key] = f"{self._directory}/{file}"
        nvram = await in_thread(self._put_nvram, target)
        self._registering = True
        created: Created = await create_vm(
            self._scope.vsphere,
            self._saved,
            name=self._name,
            directory=self._directory,
            disks=disks,
            folder=self._folder,
            nvram=nvram,
        )
        return RestoredVm(
            vm=created.vm,
            transport="datastore" if mount else HttpsTransport.name,
            disks=disks,
            size_bytes=sum(disk.size_bytes for disk in self._point.manifest.disks),
            host_bytes=0 if mount else self._host_bytes,
            warnings=created.warnings,
        )

    async def _make_directory(self) -> None:
        """Through vSphere, also where the datastore is mounted: what then appears there is the datastore itself."""
        await make_directory(self._scope.vsphere, self._directory)
        self._made_directory = True

    def _target(self, mount: Mount | None) -> RestoreTarget:
        if mount:
            return DatastoreTarget(mount.path, self._name, self._scope.workers)
        return HttpsTarget(self._scope.folder_access, self._directory)

    def _write(self, target: RestoreTarget, file: str, disk: PointDisk) -> None:
        source = self._point.disk(disk.key)
        known: Mapping[str, Any] = next((one for one in self._saved["disks"] if one["key"] == disk.key), {})
        version = str(self._saved.get("hardware_version", "")).removeprefix("vmx-")
        descriptor = flat_descriptor(
            file,
            disk.size_bytes,
            adapter="ide" if str(known.get("unit", "")).startswith("ide") else "lsilogic",
            hardware_version=int(version) if version.isdigit() else 13,
            thin=bool(known.get("thin", True)),
        )
        written_bytes = 0

        def wrote(more: int) -> None:
            nonlocal written_bytes
            if self._stop.is_set():
                raise Stopped(f"the restore of {self._name} was stopped")
            written_bytes += more
            self._host_bytes += more
            self._scope.progress(disk.label, written_bytes, disk.size_bytes)

        target.write_disk(file, descriptor, source, wrote)
        written = target.read_back(file, disk.size_bytes)
        try:
            self._scope.workers.each(
                range(-(-disk.size_bytes // SPAN_BYTES)), lambda span: _compare(source, written, span, file), self._stop
            )
        finally:
            written.close()

    def _put_nvram(self, target: RestoreTarget) -> str | None:
        for file in self._point.manifest.files:
            if file.name.endswith(".nvram"):
                name = f"{self._name}.nvram"
                target.put_file(name, self._point.file(file))
                return name
        return None

    async def undo(self) -> None:
        """Unregister the VM, should it have come to that, then delete its directory, which was not there before.

        What fails is logged. A VM that stays registered keeps its files.
        """
        try:
            if self._registering:
                await self._unregister()
            if self._made_directory:
                await delete_path(self._scope.vsphere, self._directory)
        except OffhostError as error:
            _log.error("the restore of %s is not taken back, %s stays: %s", self._name, self._directory, error)

    async def _unregister(self) -> None:
        """Only a VM that lies in our directory: by now another one may have our name."""
        for vm in await vms(self._scope.vsphere):
            if vm.name == self._name:
                present = await configuration(self._scope.vsphere, vm)
                if present.vmx_path.startswith(f"{self._directory}/"):
                    await unregister_vm(self._scope.vsphere, vm)


def _check_name(name: str) -> None:
    """Raise UsageError unless a VM, a directory and files can be called so."""
    plain = name.isprintable() and name == name.strip() and not name.startswith(".") and not _UNFIT.search(name)
    if not name or not plain:
        raise UsageError(
            f"a VM cannot be called {name[:_LIMIT_NAME]!r}",
            hint='choose a --new-name without / \\ % " [ ], spaces at its ends, a dot at its beginning',
        )
    if len(name) > _LIMIT_NAME or len(name.encode()) > _LIMIT_NAME_BYTES:
        raise UsageError(
            f"a VM cannot be called {name[:_LIMIT_NAME]!r}…: that is longer than {_LIMIT_NAME} characters, "
            f"or {_LIMIT_NAME_BYTES} bytes",
            hint="choose a shorter --new-name",
        )


def _compare(source: ReadAt, written: ReadAt, span: int, file: str) -> None:
    """Read a span from both sides. Raises: RestoreFailed when they differ."""
    start = span * SPAN_BYTES
    length = min(SPAN_BYTES, source.size_bytes - start)
    ours, theirs = bytearray(length), bytearray(length)
    source.read_into(start, memoryview(ours))
    written.read_into(start, memoryview(theirs))
    if not np.array_equal(np.frombuffer(ours, np.uint8), np.frombuffer(theirs, np.uint8)):
        raise RestoreFailed(f"{file}: what was written reads back differently at byte {start} and after")
