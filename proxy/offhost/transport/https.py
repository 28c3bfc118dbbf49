"""The transport `https`: ranges of a disk's file through the endpoint's `/folder`, for machines that are switched off.

Owns: which disks can be had this way, and reading them. Does not own: addresses, log-in, connections
(`vsphere.folder`). ESXi locks the disks of a running VM, and a vSAN or vVol datastore has no file of that name.
"""

import threading
from typing import Protocol

from offhost.blockio import ReadAt, SliceReadAt, check_range
from offhost.diskimage.beneath import resolve
from offhost.diskimage.descriptor import LIMIT_BYTES, Descriptor, ExtentLine, parse_descriptor
from offhost.diskimage.layers import Layer, Zeros
from offhost.errors import (
    DamagedImage,
    GateClosed,
    NotFound,
    OffhostError,
    PermissionDenied,
    ReadFailed,
    TransportUnavailable,
    UnsupportedImage,
)
from offhost.extents import ExtentMap
from offhost.transport.contract import OpenDisk, split_path
from offhost.vsphere.values import Disk, Vm

_RANGE_BYTES = 4 << 20


class ReadableFolder(Protocol):
    """Files on datastores, by path `[datastore] folder/file`. Errors: NotFound, PermissionDenied, ReadFailed."""

    def file_size(self, path: str) -> int:
        """The size of a file in bytes."""
        ...

    def fetch_range(self, path: str, start: int, length: int, into: memoryview) -> None:
        """Fill `into` with `length` bytes of a file from `start` on."""
        ...

    def download(self, path: str, limit_bytes: int) -> bytes:
        """A small file, whole. Raises: ReadFailed when it is larger than the limit."""
        ...


class HostBytes:
    """Counts what comes through hosts. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0

    def add(self, count: int) -> None:
        """Some more bytes."""
        with self._lock:
            self._count += count

    def total(self) -> int:
        """All of them so far."""
        return self._count


class RangedFile:
    """A file on a datastore as ReadAt, a few MiB a request. Thread-safe as its folder is."""

    def __init__(self, folder: ReadableFolder, path: str, size_bytes: int, host_bytes: HostBytes) -> None:
        self._folder, self._path, self._size, self._host_bytes = folder, path, size_bytes, host_bytes

    @property
    def size_bytes(self) -> int:
        """The size that was told when it was opened."""
        return self._size

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the buffer. Raises: ReadFailed, also when the file has gone or was locked meanwhile."""
        check_range(offset, len(buffer), self._size)
        for start in range(0, len(buffer), _RANGE_BYTES):
            piece = buffer[start : start + _RANGE_BYTES]
            try:
                self._folder.fetch_range(self._path, offset + start, len(piece), piece)
            except (NotFound, PermissionDenied) as error:
                raise ReadFailed(f"{self._path}: could be read before, and now cannot: {error.message}") from error
            self._host_bytes.add(len(piece))

    def allocated(self) -> ExtentMap:
        """All of it: `/folder` does not tell holes."""
        return ExtentMap.whole(self._size)

    def close(self) -> None:
        """Nothing is held; the folder is its owner's."""


class HttpsTransport:
    """Reads flat disks of templates and powered-off VMs. Thread-safe as its folder is, which it does not own."""

    name = "https"

    def __init__(self, folder: ReadableFolder) -> None:
        self._folder = folder

    def refusal(self, vm: Vm, disk: Disk) -> str | None:
        """Why this transport cannot serve the disk; None when it may."""
        if not vm.template and vm.power != "off":
            return "the VM is not powered off: ESXi locks the disks of a running VM"
        if disk.backing.encrypted:
            return "the disk is encrypted: its file holds ciphertext"
        if disk.backing.kind != "flat" or len(disk.backing.chain) > 1:
            return "the disk is a delta upon others: only whole flat disks are read this way"
        return None

    def open(self, vm: Vm, disk: Disk) -> OpenDisk:
        """Open a flat disk.

        Raises: TransportUnavailable when its files cannot be had this way; DamagedImage when they are shorter than
        their descriptor or vSphere says.
        """
        host_bytes = HostBytes()
        try:
            descriptor = self._descriptor(disk.backing.file, host_bytes)
            pieces = [self._piece(disk.backing.file, extent, host_bytes) for extent in descriptor.extents]
        except (NotFound, PermissionDenied, ReadFailed, UnsupportedImage) as error:
            raise TransportUnavailable(error.message, hint=error.hint) from error
        layer = Layer(pieces)
        if layer.size_bytes != disk.capacity_bytes:
            raise DamagedImage(
                f"{disk.backing.file}: holds {layer.size_bytes} bytes, vSphere says {disk.capacity_bytes}",
                hint="the descriptor is not the disk's: consolidate the VM's disks",
            )
        return OpenDisk(
            source=layer,
            transport=self.name,
            identify=lambda: self._identity(vm, disk, host_bytes),
            count_host_bytes=host_bytes.total,
        )

    def fetch(self, path: str, limit_bytes: int) -> bytes:
        """A small file, through a host, whatever the VM's power state: ESXi locks disks, not these."""
        return self._folder.download(path, limit_bytes)

    def _descriptor(self, path: str, host_bytes: HostBytes) -> Descriptor:
        content = self._folder.download(path, LIMIT_BYTES)
        host_bytes.add(len(content))
        descriptor = parse_descriptor(content, path)
        if descriptor.parent_cid is not None:
            raise UnsupportedImage(f"{path}: is a delta upon another disk")
        return descriptor

    def _piece(self, path: str, extent: ExtentLine, host_bytes: HostBytes) -> ReadAt:
        if extent.kind == "ZERO":
            return Zeros(extent.size_bytes)
        if extent.kind not in ("FLAT", "VMFS"):
            raise UnsupportedImage(f"{path}: has a sparse extent: only whole flat disks are read this way")
        if "://" in extent.file:
            raise UnsupportedImage(f"{path}: lies in a storage object, {extent.file[:80]!r}, which is not a file")
        file = extent_path(path, extent.file)
        size = self._folder.file_size(file)
        if size < extent.start_bytes + extent.size_bytes:
            raise DamagedImage(
                f"{file}: has {size} bytes, its descriptor says {extent.start_bytes + extent.size_bytes}",
                hint="the file is cut short: the disk is damaged on its datastore",
            )
        return SliceReadAt(RangedFile(self._folder, file, size, host_bytes), extent.start_bytes, extent.size_bytes)

    def _identity(self, vm: Vm, disk: Disk, host_bytes: HostBytes) -> str:
        """Paths, sizes, and what the descriptor says: its content id changes when somebody opens the disk to write."""
        try:
            descriptor = self._descriptor(disk.backing.file, host_bytes)
            files = [extent_path(disk.backing.file, extent.file) for extent in descriptor.extents if extent.file]
            sizes = "\n".join(f"{file}={self._folder.file_size(file)}" for file in files)
        except OffhostError as error:
            raise GateClosed(f"{vm.name}: {disk.label} is not there as it was: {error.message}") from error
        return f"{disk.backing.file}={descriptor.structure}\n{sizes}"


def extent_path(descriptor_path: str, file: str) -> str:
    """The datastore path of an extent that a descriptor names. Raises: DamagedImage when it leaves the datastore."""
    datastore, name = split_path(descriptor_path)
    return f"[{datastore}] {resolve(name, file)}"
