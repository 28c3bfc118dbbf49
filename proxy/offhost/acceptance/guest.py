"""The guest of the throw-away VM: a disk that boots into a program which writes to it and switches the VM off.

Owns: what the disk holds before and after. A powered-off VM's files can be written from outside, but change tracking
sees only what a guest writes; so there must be one, and it must need nothing but a BIOS.
"""

import numpy as np

from offhost.extents import Extent, ExtentMap

SIZE_BYTES = 64 << 20
_DATA_BYTES = 8 << 20
"""What the disk holds at first, beside the program; the rest is zeros."""
_SECTOR = 512
_PLACES = (2048, 40000, 120000)
_PLACE_BYTES = 64 * _SECTOR
_WRITTEN = b"\xa5"

_PROGRAM = bytes.fromhex(
    "fa31c08ed88ec08ed0bc007cfbfc88167d7cbf0080b90080b0a5f3aabb5d7c668b076685c0741766a3757cbe6d7c8a16"
    "7d7cb8004353cd135b83c304ebe1b8015331dbcd15b80e5331dbb90201cd15b80753bb0100b90300cd15f4ebfd000800"
    "00409c0000c0d4010000000000100040000080"
)
"""`guest.S`, assembled."""

WRITES = ExtentMap(Extent(place * _SECTOR, place * _SECTOR + _PLACE_BYTES) for place in _PLACES)
"""Where the program writes."""


def boot_sector() -> bytes:
    """The disk's first sector, which a BIOS loads and runs."""
    return _PROGRAM.ljust(_SECTOR - 2, b"\0") + b"\x55\xaa"


def content(seed: int) -> bytes:
    """The whole disk before the VM is switched on."""
    return boot_sector() + np.random.default_rng(seed).bytes(_DATA_BYTES) + bytes(SIZE_BYTES - _DATA_BYTES - _SECTOR)


def written(before: bytes) -> bytes:
    """The whole disk after the program has run."""
    after = bytearray(before)
    for extent in WRITES:
        after[extent.start : extent.end] = _WRITTEN * _PLACE_BYTES
    return bytes(after)
