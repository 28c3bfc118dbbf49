"""Cutting of streams: files in which nothing is aligned, such as a .vmx or an nvram.

Owns: the rule `fastcdc-1`, part of the repository's format: FastCDC of Xia et al. (USENIX ATC 2016) with normalised
chunking. A piece is at least 16 KiB and at most 256 KiB. For each further byte b a 32-bit pattern, zero where the
search begins, becomes (pattern >> 1) + gear[b]; the piece ends after the first byte that leaves the pattern's lowest 17
bits zero while fewer than 40 KiB precede it, its lowest 15 from there on, and where the bytes end. The gear table is
the one of the `fastcdc` package. The rule has no secret: who sees the sizes of a stream's chunks can compare them with
those of a file he knows.

Does not own: identities, disks.
"""

from typing import Final

from fastcdc import fastcdc

from offhost.chunking.pieces import Piece

_MIN_BYTES = 16 << 10
_MEAN_BYTES = 64 << 10
_MAX_BYTES = 256 << 10


class StreamCutter:
    """The rule `fastcdc-1`. Safe to share between threads, though it holds the GIL: meant for small files."""

    identity: Final = "fastcdc-1"

    def cut(self, data: memoryview) -> list[Piece]:
        """The pieces of a whole stream, which they cover without gaps."""
        cuts = fastcdc(data, _MIN_BYTES, _MEAN_BYTES, _MAX_BYTES)
        return [Piece(cut.offset, cut.length) for cut in cuts]
