"""Compression of one chunk, and its bounded undoing.

Owns: the codec bytes as they are stored, the choice of codec per chunk. Does not own: sealing, packs, ids.
Everything is safe to call from several threads at once and releases the GIL while it compresses.
"""

import threading
from dataclasses import dataclass
from enum import IntEnum

import lz4.block
import zstandard

from offhost.errors import ChunkCorrupt


class Codec(IntEnum):
    """How a chunk's bytes are stored; the values are part of the repository's format."""

    RAW = 0
    LZ4 = 1
    """One LZ4 block, without a size."""
    ZSTD = 2
    """One Zstandard frame."""


@dataclass(frozen=True, slots=True)
class Compression:
    """What new chunks are to be compressed with; a chunk that gains too little is stored raw all the same."""

    codec: Codec = Codec.LZ4
    level: int = 3
    """Zstandard's level; LZ4 and RAW have none."""
