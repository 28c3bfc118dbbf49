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

_GAIN_PARTS = 16
"""A chunk is stored raw unless compression takes off one part in this many."""

_WINDOW_BYTES = 8 << 20
"""The window a Zstandard frame may ask for, which bounds what a reader allocates (RFC 8878 recommends this much)."""


Stored = bytes | bytearray | memoryview


class Codec(IntEnum):
    """How a chunk's bytes are stored; the values are part of the repository's format."""

    RAW = 0
    LZ4 = 1
    """One LZ4 block, without a size."""
    ZSTD = 2
    """One Zstandard frame."""


class _ThreadContexts(threading.local):
    """Zstandard contexts of one thread: each holds megabytes that are worth using again and may not be shared."""

    def __init__(self) -> None:
        self.compressors: dict[int, zstandard.ZstdCompressor] = {}
        self.decompressor = zstandard.ZstdDecompressor(max_window_size=_WINDOW_BYTES)

    def compressor(self, level: int) -> zstandard.ZstdCompressor:
        """This thread's context for a level."""
        if level not in self.compressors:
            self.compressors[level] = zstandard.ZstdCompressor(level=level, write_content_size=False)
        return self.compressors[level]


_contexts = _ThreadContexts()


@dataclass(frozen=True, slots=True)
class Compression:
    """What new chunks are to be compressed with; a chunk that gains too little is stored raw all the same.

    Nothing is tried on a sample first: both codecs pass over incompressible data at four times their usual speed, so
    that the eighth of a disk that gains nothing takes 3 % of the time spent compressing.
    """

    codec: Codec = Codec.LZ4
    level: int = 3
    """Zstandard's level; LZ4 and RAW have none."""

    def compress(self, plain: memoryview) -> tuple[Codec, bytes | memoryview]:
        """A chunk as it is to be stored. Where that is raw, `plain` itself comes back, not a copy."""
        if self.codec is Codec.RAW:
            return Codec.RAW, plain
        packed: bytes = (
            lz4.block.compress(plain, store_size=False)
            if self.codec is Codec.LZ4
            else _contexts.compressor(self.level).compress(plain)
        )
        gains = len(packed) <= len(plain) - -(-len(plain) // _GAIN_PARTS)
        return (self.codec, packed) if gains else (Codec.RAW, plain)


def decompress(codec: int, data: Stored, plain_bytes: int) -> Stored:
    """The plain bytes of a stored chunk, exactly `plain_bytes` of them; raw data comes back without a copy.

    Never allocates more than that (and a bounded window), whatever `data` claims. Says nothing about whether the
    bytes are the right ones: the chunk's id does.
    Raises: ChunkCorrupt when the data are not such a chunk.
    """
    try:
        plain = _undo(Codec(codec), data, plain_bytes)
    except (ValueError, lz4.block.LZ4BlockError, zstandard.ZstdError) as error:
        raise ChunkCorrupt(f"a chunk of {len(data)} stored bytes does not decompress: {error}") from error
    if len(plain) != plain_bytes:
        raise ChunkCorrupt(f"a chunk decompresses to {len(plain)} bytes where {plain_bytes} are recorded")
    return plain


def _undo(codec: Codec, data: Stored, plain_bytes: int) -> Stored:
    if codec is Codec.RAW:
        return data
    if codec is Codec.LZ4:
        unpacked: bytearray = lz4.block.decompress(data, uncompressed_size=plain_bytes, return_bytearray=True)
        return unpacked
    # The library believes a size that the frame states and would allocate it.
    if zstandard.frame_content_size(data) not in (-1, plain_bytes):
        raise ValueError("the frame states another size than is recorded")
    return _contexts.decompressor.decompress(data, max_output_size=plain_bytes, allow_extra_data=False)
