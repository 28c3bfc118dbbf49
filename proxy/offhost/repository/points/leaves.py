"""The leaves of a disk map as bytes.

Owns: FORMAT.md, "Disk maps": keyframes, patches, the span digest. Pure. Does not own: where leaves lie (diskmap).
"""

import struct
from dataclasses import dataclass

import blake3
import numpy as np
from numpy.typing import NDArray

from offhost.chunking.spans import SPAN_BYTES, SpanMap
from offhost.errors import PackCorrupt
from offhost.ids import ChunkId
from offhost.repository.chunks.packs import CHUNK_LIMIT_BYTES

MAX_DEPTH = 16
_PATCHES_AT_LEAST = 8

_KEYFRAME, _PATCH = 0, 1
_COUNT = struct.Struct("<I")
_PATCH_HEAD = struct.Struct("<B32sI")


@dataclass(frozen=True, slots=True)
class Splices:
    """How a span's entries follow from its parent's: at entry `at`, `removed` go, `inserted` of the new ones come."""

    at: NDArray[np.uint32]
    removed: NDArray[np.uint32]
    inserted: NDArray[np.uint32]
    entries: SpanMap


@dataclass(frozen=True, slots=True)
class Patch:
    """A leaf that is told by its difference from another."""

    depth: int
    parent: ChunkId
    splices: Splices


def _encode_entries(entries: SpanMap) -> bytes:
    starts, lengths = entries.starts.astype("<u4").tobytes(), entries.lengths.astype("<u4").tobytes()
    return _COUNT.pack(len(entries)) + starts + lengths + entries.ids.tobytes()


def encode_keyframe(entries: SpanMap) -> bytes:
    """All entries of a span."""
    return bytes([_KEYFRAME]) + _encode_entries(entries)


def encode_patch(patch: Patch) -> bytes:
    """The difference from the parent."""
    splices = patch.splices
    columns = b"".join(column.astype("<u4").tobytes() for column in (splices.at, splices.removed, splices.inserted))
    head = _PATCH_HEAD.pack(patch.depth, patch.parent, len(splices.at))
    return bytes([_PATCH]) + head + columns + _encode_entries(splices.entries)


def span_digest(entries: SpanMap, metadata_id_key: bytes) -> bytes:
    """What tells two spans apart, whatever way their leaves are stored."""
    return blake3.blake3(encode_keyframe(entries), key=metadata_id_key).digest()


def keyframe_due(depth: int, digest: bytes) -> bool:
    """Whether the next leaf is to be a keyframe, after `depth` patches; `digest` is the new span's.

    Spans that all change every day would all be due on one day, which would then cost ten times the others. So each
    ends its chain after 8 to 16 patches, as its digest, as good as a lot, decides: in the long run every length is
    equally likely, and each day has its share of keyframes.
    """
    return depth >= _PATCHES_AT_LEAST and digest[0] % (MAX_DEPTH + 1 - depth) == 0


def decode(leaf: bytes) -> SpanMap | Patch:
    """A leaf's plaintext. Raises: PackCorrupt when it is not one, or its entries leave the span or overlap."""
    try:
        if leaf[0] == _KEYFRAME:
            return _decode_entries(leaf, 1)
        if leaf[0] != _PATCH:
            raise PackCorrupt(f"a leaf of unknown form {leaf[0]}")
        depth, parent, count = _PATCH_HEAD.unpack_from(leaf, 1)
        start = 1 + _PATCH_HEAD.size
        columns = np.frombuffer(leaf, "<u4", 3 * count, start).reshape(3, count)
        entries = _decode_entries(leaf, start + 12 * count)
    except (IndexError, struct.error, ValueError) as error:
        raise PackCorrupt(f"a leaf is cut short: {error}") from error
    if not 1 <= depth <= MAX_DEPTH:
        raise PackCorrupt(f"a leaf of depth {depth}")
    return Patch(depth, ChunkId(parent), Splices(columns[0], columns[1], columns[2], entries))


def _decode_entries(leaf: bytes, at: int) -> SpanMap:
    (count,) = _COUNT.unpack_from(leaf, at)
    at += _COUNT.size
    starts = np.frombuffer(leaf, "<u4", count, at)
    lengths = np.frombuffer(leaf, "<u4", count, at + 4 * count)
    ids = np.frombuffer(leaf, np.uint8, 32 * count, at + 8 * count).reshape(count, 32)
    if at + 40 * count != len(leaf):
        raise PackCorrupt("a leaf has bytes behind its entries")
    return checked(SpanMap(starts, lengths, ids))


def checked(entries: SpanMap) -> SpanMap:
    """The entries, when they are ascending, disjoint and within a span. Raises: PackCorrupt."""
    ends = entries.starts.astype(np.uint64) + entries.lengths
    if len(entries) and (
        ends[-1] > SPAN_BYTES
        or (entries.starts[1:] < ends[:-1]).any()
        or not entries.lengths.all()
        or (entries.lengths > CHUNK_LIMIT_BYTES).any()
    ):
        raise PackCorrupt("a leaf's entries overlap or leave their span")
    return entries


def _rows(entries: SpanMap) -> NDArray[np.bytes_]:
    """Each entry as one comparable value; all have one length, so padding cannot make two equal."""
    columns = (entries.starts.astype(">u4"), entries.lengths.astype(">u4"))
    wide = [np.ascontiguousarray(column).view(np.uint8).reshape(-1, 4) for column in columns]
    return np.ascontiguousarray(np.hstack([*wide, entries.ids])).view("S40").reshape(-1)


def difference(old: SpanMap, new: SpanMap) -> Splices:
    """How `new` follows from `old`: an entry that both have stays, the others between are spliced."""
    _, kept_old, kept_new = np.intersect1d(_rows(old), _rows(new), assume_unique=True, return_indices=True)
    edges_old = np.concatenate([[-1], kept_old, [len(old)]])
    edges_new = np.concatenate([[-1], kept_new, [len(new)]])
    removed, inserted = np.diff(edges_old) - 1, np.diff(edges_new) - 1
    spliced = (removed > 0) | (inserted > 0)
    stays = np.zeros(len(new), np.bool_)
    stays[kept_new] = True
    fresh = SpanMap(new.starts[~stays], new.lengths[~stays], new.ids[~stays])
    at = edges_old[:-1][spliced] + 1
    return Splices(at.astype(np.uint32), removed[spliced].astype(np.uint32), inserted[spliced].astype(np.uint32), fresh)


def splice_order(parent_entries: int, splices: Splices) -> NDArray[np.intp]:
    """Where the entries of a patch's span come from: positions in the parent's entries followed by the new ones.

    Raises: PackCorrupt when the patch does not fit a parent of so many entries.
    """
    ends = splices.at.astype(np.uint64) + splices.removed
    fits = not len(ends) or (ends[-1] <= parent_entries and not (splices.at[1:] < ends[:-1]).any())
    if not fits or int(splices.inserted.sum(dtype=np.uint64)) != len(splices.entries):
        raise PackCorrupt("a leaf's patch does not fit its parent")
    steps = np.zeros(parent_entries + 1, np.int64)
    np.add.at(steps, splices.at, 1)
    np.subtract.at(steps, ends.astype(np.intp), 1)
    kept = np.flatnonzero(steps[:-1].cumsum() == 0)
    inserted = np.arange(parent_entries, parent_entries + len(splices.entries))
    # an entry of the parent stands behind what is spliced in at it
    order = np.argsort(np.concatenate([2 * kept + 1, 2 * np.repeat(splices.at, splices.inserted)]), kind="stable")
    return np.concatenate([kept, inserted])[order]


def apply(parent: SpanMap, splices: Splices) -> SpanMap:
    """The entries that a patch stands for. Raises: PackCorrupt when it does not fit its parent."""
    order = splice_order(len(parent), splices)
    columns = ((getattr(parent, name), getattr(splices.entries, name)) for name in ("starts", "lengths", "ids"))
    return checked(SpanMap(*(np.concatenate(column)[order] for column in columns)))
