"""Disk images on the proxy's own file systems as ReadAt: raw and VMDK, with their delta chains.

What an image says about itself is taken for hostile: sizes are bounded, every place is checked against its file, and
nothing outside of the disk's directory is ever opened. Start at `image`.
"""

from offhost.diskimage.deltas import has_delta
from offhost.diskimage.descriptor import flat_descriptor, flat_name
from offhost.diskimage.folder import FolderImage, open_folder, open_image
from offhost.diskimage.image import DiskImage, open_disk

__all__ = [
    "DiskImage",
    "FolderImage",
    "flat_descriptor",
    "flat_name",
    "has_delta",
    "open_disk",
    "open_folder",
    "open_image",
]
