"""A disk, opened by its path: raw, or a VMDK with whatever it stands on.

Owns: telling formats apart, following a delta chain down to its base. Does not own: the formats themselves.
"""

import os
import stat
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from offhost.blockio import FileReadAt, ReadAt, SliceReadAt, read_bytes
from offhost.diskimage import cowd, hosted, sesparse
from offhost.diskimage.beneath import Beneath, PlainFile, Reader, resolve
from offhost.diskimage.descriptor import (
    LIMIT_BYTES,
    Descriptor,
    ExtentLine,
    is_descriptor,
    parse_descriptor,
)
from offhost.diskimage.grains import SparseExtent
from offhost.diskimage.layers import Layer, Piece, Zeros
from offhost.errors import DamagedImage, DiskImageError, NotFound, UnsupportedImage
from offhost.extents import ExtentMap

_LIMIT_LEVELS = 64
"""vSphere allows 32 snapshots in a chain; a linked clone stands on another chain."""
_OTHER_FORMATS = frozenset({".qcow", ".qcow2", ".vdi", ".vhd", ".vhdx", ".ova", ".ovf", ".vmx"})
"""By their names: to look into a raw disk for a format would let its guest choose one."""
_SESPARSE_HEAD = sesparse.MAGIC.to_bytes(8, "little")


class DiskImage:
    """A disk as ReadAt. Thread-safe. Owns every file it stands on."""

    def __init__(self, source: ReadAt, *, image_format: str, files: tuple[PlainFile, ...], levels: "tuple[Level, ...]"):
        self._source = source
        self.format = image_format
        """`raw`, or the createType of the topmost descriptor: `vmfs`, `seSparse`, `streamOptimized`..."""
        self.files = tuple(file.path for file in files)
        """Every file that was opened, descriptors included."""
        self.levels = levels
        """The delta chain from the top down to its base; empty for a raw image."""
        self._opened = files

    @property
    def size_bytes(self) -> int:
        """The disk's size."""
        return self._source.size_bytes

    @property
    def uuid(self) -> str | None:
        """The disk's UUID, 32 hexadecimal digits, which a base tells and its deltas share; None where none is set."""
        return next((level.descriptor.uuid for level in self.levels if level.descriptor.uuid), None)

    @property
    def identity(self) -> str:
        """Which files, as they were when opened, make the disk, and how. Equal only when nobody replaced, resized,
        wrote to or re-linked any of them between two openings. Descriptors count by what they say: vSphere rewrites
        them for reasons of its own.
        """
        described = self._described()
        return "\n".join(f"{file.path}={described.get(file.name, file.identity)}" for file in self._opened)

    @property
    def structure(self) -> str:
        """Which files make the disk, and how. As `identity`, but equal though somebody wrote to them meanwhile."""
        described = self._described()
        return "\n".join(f"{file.path}={described.get(file.name, file.place)}" for file in self._opened)

    @property
    def written(self) -> dict[str, str]:
        """The files that hold data, by name beneath the root, with what tells that one was written to or touched."""
        described = self._described()
        return {str(file.name): file.written for file in self._opened if file.name not in described}

    def _described(self) -> dict[PurePosixPath, str]:
        return {level.name: level.descriptor.structure for level in self.levels if not level.embedded}

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the buffer with the bytes at `offset`. Raises: DamagedImage, ReadFailed, ValueError."""
        self._source.read_into(offset, buffer)

    def allocated(self) -> ExtentMap:
        """A superset of the bytes that are not zero, over all levels."""
        return self._source.allocated()

    def close(self) -> None:
        """Close every file."""
        for file in self._opened:
            file.source.close()

    def __enter__(self) -> "DiskImage":
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class Level:
    """One link of a delta chain: the file that describes it, relative to the root, and what it says."""

    name: PurePosixPath
    descriptor: Descriptor
    embedded: bool
    """The descriptor lies within the file that holds the data."""


def open_disk(path: Path, root: Path | None = None, *, reader: Reader = FileReadAt) -> DiskImage:
    """Open a disk by the path of its raw image, or of its VMDK's descriptor or single file.

    Without `root` the path is the operator's own word: links in it are followed, and it may be a block device; what
    it refers to must lie beneath its directory. With `root` (a mounted datastore) the path itself, and all it refers
    to, must lie beneath that.
    Only a `.vmdk` is looked into: what a raw disk begins with is its guest's to write.

    Raises: NotFound, UnsupportedImage, DamagedImage, DiskImageError when a file cannot be opened.
    """
    if root is None:
        path = _operators_path(path)
        if stat.S_ISBLK(path.stat().st_mode):
            return _device(path, reader)
        if path.suffix.lower() in _OTHER_FORMATS:
            raise UnsupportedImage(
                f"{path}: a {path.suffix} file is not a disk that offhost reads",
                hint="convert it with qemu-img; name a VM by its folder; rename the file if it is raw after all",
            )
        root = path.parent
    try:
        name = PurePosixPath(path.relative_to(root) if path.is_absolute() else path)
    except ValueError:
        raise DamagedImage(f"{path}: does not lie beneath {root}") from None
    with ExitStack() as undo:
        beneath = undo.enter_context(Beneath(root, reader))
        opening = _Opening(beneath, undo)
        image = opening.raw(name) if is_raw_name(name.name) else opening.chain(name)
        undo.pop_all()
        beneath.close()
    return image


def is_raw_name(name: str) -> bool:
    """Whether a file of this name is read as plain bytes: all but `.vmdk`, and a VMDK's flat extents."""
    return not name.lower().endswith(".vmdk") or name.lower().endswith("-flat.vmdk")


def _operators_path(path: Path) -> Path:
    try:
        return path.resolve(strict=True)
    except OSError as error:
        raise NotFound(f"{path}: {error.strerror}", hint="name a raw image, a .vmdk, or a VM's folder") from error


def _device(path: Path, reader: Reader) -> DiskImage:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise DiskImageError(f"{path}: {error.strerror}", hint="a block device is read as root") from error
    file = PlainFile(
        name=PurePosixPath(path.name), path=path, source=reader(fd, str(path)), identity=f"device:{path.stat().st_rdev}"
    )
    return DiskImage(file.source, image_format="raw", files=(file,), levels=())


@dataclass(slots=True)
class _Opening:
    """One disk being opened: what was opened so far, to be closed should it fail."""

    beneath: Beneath
    undo: ExitStack
    files: list[PlainFile] = field(default_factory=list)
    levels: list[Level] = field(default_factory=list)

    def raw(self, name: PurePosixPath) -> DiskImage:
        """A raw image."""
        file = self._open(name)
        if not file.source.size_bytes:
            raise DamagedImage(f"{file.path}: is empty", hint="is this the disk that was meant?")
        return DiskImage(file.source, image_format="raw", files=(file,), levels=())

    def chain(self, name: PurePosixPath) -> DiskImage:
        """A VMDK and all that it stands on."""
        layer = self._layer(name)
        return DiskImage(
            layer,
            image_format=self.levels[0].descriptor.create_type,
            files=tuple(self.files),
            levels=tuple(self.levels),
        )

    def _open(self, name: PurePosixPath) -> PlainFile:
        file = self.beneath.open(name)
        self.undo.callback(file.source.close)
        self.files.append(file)
        return file

    def _layer(self, name: PurePosixPath) -> Layer:
        """A level and, first, those below it. The depth is bounded, so the recursion is."""
        if any(level.name == name for level in self.levels) or len(self.levels) >= _LIMIT_LEVELS:
            raise DamagedImage(
                f"{name}: its chain of {len(self.levels)} levels comes back to itself, or has no end",
                hint="a parentFileNameHint in one of the descriptors is wrong",
            )
        file, level = self._level(name)
        self.levels.append(level)
        descriptor = level.descriptor
        below = self._parent(level)
        if level.embedded:
            whole = below or Zeros(descriptor.size_bytes)
            return Layer([hosted.hosted_piece(file.source, descriptor.size_bytes, whole, str(file.path))], below)
        pieces: list[Piece] = []
        start = 0
        for extent in descriptor.extents:
            window = SliceReadAt(below, start, extent.size_bytes) if below else Zeros(extent.size_bytes)
            pieces.append(self._piece(name, extent, window))
            start += extent.size_bytes
        return Layer(pieces, below)

    def _level(self, name: PurePosixPath) -> tuple[PlainFile, Level]:
        """The file that describes a level, and what it says."""
        file = self._open(name)
        head = read_bytes(file.source, 0, min(LIMIT_BYTES, file.source.size_bytes))
        if is_raw_name(name.name) or not (is_descriptor(head) or head[:4] == hosted.MAGIC):
            raise _not_a_disk(file, head)
        if head[:4] == hosted.MAGIC:
            content = hosted.embedded_descriptor(file.source, str(file.path))
            return file, Level(name, parse_descriptor(content, str(file.path)), embedded=True)
        if file.source.size_bytes > LIMIT_BYTES:
            raise DamagedImage(
                f"{file.path}: has {file.source.size_bytes} bytes, which no descriptor has",
                hint="a raw image is read as such when its name does not end in .vmdk",
            )
        return file, Level(name, parse_descriptor(head, str(file.path)), embedded=False)

    def _parent(self, level: Level) -> Layer | None:
        """What a level stands on, when it is what the level was made upon."""
        descriptor = level.descriptor
        if descriptor.parent_cid is None:
            return None
        if descriptor.parent_hint.startswith("/"):
            raise UnsupportedImage(
                f"{level.name}: stands on {descriptor.parent_hint[:200]!r}, an absolute name, as linked clones do",
                hint="consolidate the disk, or use a transport that asks vSphere for its bytes",
            )
        name = resolve(level.name, descriptor.parent_hint)
        at = len(self.levels)
        below = self._layer(name)
        found = self.levels[at].descriptor
        if found.cid != descriptor.parent_cid:
            raise DamagedImage(
                f"{level.name}: was made upon content id {descriptor.parent_cid} of {name}, which now has {found.cid}",
                hint="the base was written to after the snapshot: this chain does not hold a consistent disk",
            )
        if found.size_bytes != descriptor.size_bytes:
            raise DamagedImage(
                f"{level.name}: has {descriptor.size_bytes} bytes, its base {name} has {found.size_bytes}",
                hint="is this the base that the delta was made upon?",
            )
        return below

    def _piece(self, named_in: PurePosixPath, extent: ExtentLine, below: ReadAt) -> Piece:
        """One extent of a level, over its window of the level below."""
        if extent.kind == "ZERO":
            return Zeros(extent.size_bytes)
        file = self._open(resolve(named_in, extent.file))
        name, source = str(file.path), file.source
        if extent.kind == "SPARSE":
            return hosted.hosted_piece(source, extent.size_bytes, below, name)
        if extent.kind == "VMFSSPARSE":
            return SparseExtent(cowd.cowd_map(source, extent.size_bytes, name), below)
        if extent.kind == "SESPARSE":
            return SparseExtent(sesparse.sesparse_map(source, extent.size_bytes, name), below)
        if extent.start_bytes + extent.size_bytes > source.size_bytes:
            raise DamagedImage(
                f"{name}: has {source.size_bytes} bytes, but {named_in} says it holds "
                f"{extent.size_bytes} from byte {extent.start_bytes} on",
                hint="the file is cut short: copy the disk again",
            )
        return SliceReadAt(source, extent.start_bytes, extent.size_bytes)


def _not_a_disk(file: PlainFile, head: bytes) -> DiskImageError:
    if head[:4] == cowd.MAGIC or head[:8] == _SESPARSE_HEAD or is_raw_name(file.name.name):
        return UnsupportedImage(
            f"{file.path}: an extent of a disk, not a disk", hint="name the disk's descriptor instead"
        )
    return UnsupportedImage(
        f"{file.path}: neither a VMDK descriptor nor a sparse VMDK",
        hint="a raw image is read as such when its name does not end in .vmdk",
    )
