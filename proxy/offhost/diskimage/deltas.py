"""What stands on a disk: the deltas beside it that were made upon it as it is.

Owns: the look for them. Does not own: reading them (image).
"""

from pathlib import Path, PurePosixPath

from offhost.blockio import read_bytes
from offhost.diskimage.beneath import Beneath, Reader, resolve
from offhost.diskimage.descriptor import LIMIT_BYTES, Descriptor, parse_descriptor
from offhost.diskimage.image import Level, is_raw_name
from offhost.errors import DiskImageError, ReadFailed


def has_delta(base: Level, root: Path, *, reader: Reader) -> bool:
    """Whether a descriptor in the directory of `base` says that it is a delta upon it, with the content it has now.

    Raises: DiskImageError when the directory cannot be read.
    """
    folder = base.name.parent
    with Beneath(root, reader) as beneath:
        names = (folder / name for name in beneath.names(folder) if not is_raw_name(name))
        return any(_is_upon(base, name, _descriptor(beneath, name)) for name in names)


def _is_upon(base: Level, name: PurePosixPath, descriptor: Descriptor | None) -> bool:
    if descriptor is None or descriptor.parent_cid != base.descriptor.cid:
        return False
    try:
        return resolve(name, descriptor.parent_hint) == base.name
    except DiskImageError:
        return False


def _descriptor(beneath: Beneath, name: PurePosixPath) -> Descriptor | None:
    """What a neighbour says, if it is a descriptor: most are not, and one may go away meanwhile."""
    try:
        source = beneath.open(name).source
        try:
            small = source.size_bytes <= LIMIT_BYTES
            return parse_descriptor(read_bytes(source, 0, source.size_bytes), str(name)) if small else None
        finally:
            source.close()
    except (DiskImageError, ReadFailed):
        return None
