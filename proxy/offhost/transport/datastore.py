"""The transport `datastore`: the files of a datastore that this proxy has mounted, read without any host.

Owns: finding a disk's files beneath the mount, and the checks that they are those that vSphere means, at this moment:
a replica of the datastore, or a state of it that the storage kept, has the same names, sizes and UUIDs. Does not own:
reading formats and delta chains (diskimage), nor mounting.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from offhost.blockio import FileReadAt, read_bytes
from offhost.diskimage import DiskImage, has_delta, open_disk
from offhost.diskimage.beneath import Beneath, Reader
from offhost.errors import DamagedImage, DiskImageError, GateClosed, NotFound, ReadFailed, TransportUnavailable
from offhost.transport.contract import OpenDisk, split_path
from offhost.transport.present import shown
from offhost.transport.uncached import DirectFileReadAt, dropping_cache
from offhost.vsphere.values import Disk, Vm


@dataclass(frozen=True, slots=True)
class Mount:
    """Where a datastore is mounted, and whether it is read past the page cache."""

    path: Path
    direct_io: bool = False


class DatastoreTransport:
    """Reads disks from mounted datastores, by the datastores' names. Thread-safe: it holds nothing."""

    name = "datastore"

    def __init__(self, mounts: Mapping[str, Mount]) -> None:
        self._mounts = dict(mounts)

    def refusal(self, vm: Vm, disk: Disk) -> str | None:
        """Why this transport cannot serve the disk; None when it may."""
        if disk.backing.encrypted:
            return "the disk is encrypted: its file holds ciphertext"
        if disk.backing.kind not in ("flat", "sparse", "sesparse"):
            return f"a disk of kind {disk.backing.kind} is not a file that can be read"
        for file in (disk.backing.file, *disk.backing.chain):
            datastore, _ = split_path(file)
            if datastore not in self._mounts:
                return f"the datastore {datastore} of {file} is not mounted on this proxy"
        return self._unreadable(disk)

    def open(self, vm: Vm, disk: Disk) -> OpenDisk:
        """Open a disk of a snapshot, or of a template, and all it stands on.

        Raises: TransportUnavailable when files cannot be opened, are another disk's, or of another moment;
        DamagedImage when they are cut short or contradict vSphere about the size.
        """
        try:
            image = self._open(disk, DirectFileReadAt if self._mount(disk).direct_io else dropping_cache)
        except DamagedImage:
            raise
        except DiskImageError as error:
            raise TransportUnavailable(error.message, hint=error.hint) from error
        try:
            _check_same(image, disk)
            if not vm.template:
                self._check_present(image, disk)
        except BaseException:
            image.close()
            raise
        return OpenDisk(source=image, transport=self.name, identify=lambda: self._identity(vm, disk))

    def fetch(self, path: str, limit_bytes: int) -> bytes:
        """A small file, read beneath the mount."""
        datastore, name = split_path(path)
        if datastore not in self._mounts:
            raise TransportUnavailable(f"the datastore {datastore} of {path} is not mounted on this proxy")
        try:
            with Beneath(self._mounts[datastore].path, dropping_cache) as beneath:
                source = beneath.open(name).source
        except DiskImageError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                raise NotFound(f"{path}: there is no such file") from error
            raise TransportUnavailable(error.message, hint=error.hint) from error
        try:
            if source.size_bytes > limit_bytes:
                raise ReadFailed(f"{path}: is larger than {limit_bytes} bytes")
            return read_bytes(source, 0, source.size_bytes)
        finally:
            source.close()

    def _mount(self, disk: Disk) -> Mount:
        return self._mounts[split_path(disk.backing.file)[0]]

    def _open(self, disk: Disk, reader: Reader) -> DiskImage:
        root = self._mount(disk).path
        return open_disk(root / split_path(disk.backing.file)[1], root, reader=reader)

    def _check_present(self, image: DiskImage, disk: Disk) -> None:
        """Raise unless the delta to which the VM has been writing since its snapshot lies upon the disk.

        Before the snapshot the disk was what the VM wrote to, and nothing stood upon it. (A state that was kept while
        another snapshot was held on the same file has such a delta, too.)
        """
        root = self._mount(disk).path
        try:
            present = shown(lambda: has_delta(image.levels[0], root, reader=dropping_cache))
        except DiskImageError as error:
            raise TransportUnavailable(error.message, hint=error.hint) from error
        if not present:
            raise TransportUnavailable(
                f"{disk.backing.file}: the VM's snapshot is not to be seen on the mount, where no delta stands upon "
                "this disk: it seems to show another moment of the datastore",
                hint=f"is a replica or an old state of it mounted at {root}, or does the VM keep its deltas elsewhere "
                "(snapshot.redoNotWithParent)?",
            )

    def _identity(self, vm: Vm, disk: Disk) -> str:
        try:
            with self._open(disk, FileReadAt) as image:
                return image.identity
        except DiskImageError as error:
            raise GateClosed(f"{vm.name}: {disk.label} is not there as it was: {error.message}") from error

    def _unreadable(self, disk: Disk) -> str | None:
        datastore, file = split_path(disk.backing.file)
        try:
            with Beneath(self._mounts[datastore].path, FileReadAt) as beneath:
                beneath.open(file).source.close()
        except DiskImageError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return f"{disk.backing.file} is not there: was the VM moved, or is the datastore not mounted?"
            return f"{error.message} ({error.hint})" if error.hint else error.message
        return None


def _check_same(image: DiskImage, disk: Disk) -> None:
    """Raise unless the files opened are those of the disk, as far as both sides tell."""
    file = disk.backing.file
    if image.size_bytes != disk.capacity_bytes:
        raise DamagedImage(
            f"{file}: holds {image.size_bytes} bytes, vSphere says {disk.capacity_bytes}",
            hint="the file is cut short, or the mount shows an old state of it",
        )
    datastore, _ = split_path(file)
    chain = tuple(f"[{datastore}] {level.name}" for level in image.levels)
    if not chain or chain != disk.backing.chain:
        raise TransportUnavailable(
            f"{file}: its chain on the mount is {', '.join(chain) or 'a raw file'}, "
            f"in vSphere {', '.join(disk.backing.chain)}",
            hint=f"is {datastore} what is mounted there?",
        )
    told = (disk.backing.uuid or "").replace("-", "").lower()
    if told and image.uuid and told != image.uuid:
        raise TransportUnavailable(
            f"{file}: the mount has the disk {image.uuid} under that name, vSphere means {told}",
            hint=f"is {datastore} what is mounted there?",
        )
