"""Disk maps: which chunks a disk consists of, span by span, sharing what other points have already.

Owns: list pages, the root digest, the choice between keyframe and patch. Does not own: the leaves' bytes (leaves),
where chunks lie (reading), the disk's content as ReadAt (disk).
"""

from collections.abc import Callable, Iterable, Iterator

import blake3
import numpy as np
from numpy.typing import NDArray

from offhost.chunking.spans import SPAN_BYTES, SpanMap
from offhost.errors import IntegrityError, PackCorrupt
from offhost.ids import ChunkId
from offhost.repository.chunks.packs import Kind
from offhost.repository.chunks.reading import PackReader
from offhost.repository.points.leaves import (
    MAX_DEPTH,
    Patch,
    apply,
    decode,
    difference,
    encode_keyframe,
    encode_patch,
    keyframe_due,
    span_digest,
)
from offhost.repository.points.manifest import DISK_LIMIT_BYTES, DiskMapRef

PAGE_SPANS = 1024

_SLOT = 68
_HOLE = bytes(_SLOT)
_EMPTY = SpanMap.of([])
_CACHED_ENTRIES = 64 << 10
"""Of 100 spans or so; the maps of a few spans, when somebody has made up very small chunks."""


def span_count(size_bytes: int) -> int:
    """Spans of a disk, the last one perhaps short."""
    return -(-size_bytes // SPAN_BYTES)


def leaves_of_page(page: bytes) -> list[ChunkId]:
    """The distinct leaves that a list page names. Raises: PackCorrupt when it is not one."""
    if not 0 < len(page) <= PAGE_SPANS * _SLOT or len(page) % _SLOT:
        raise PackCorrupt(f"a list page of {len(page)} bytes")
    slots = (page[at : at + _SLOT] for at in range(0, len(page), _SLOT))
    return list(dict.fromkeys(ChunkId(slot[32:64]) for slot in slots if slot != _HOLE))


def root_digest(size_bytes: int, cutter: str, slots: Iterable[bytes], key: bytes) -> bytes:
    """What a manifest says of a whole disk; of each span only the digest, the first 32 bytes of its slot, counts."""
    return _root_digest(size_bytes, cutter, b"".join(slot[:32] for slot in slots), key)


def _root_digest(size_bytes: int, cutter: str, digests: bytes, key: bytes) -> bytes:
    return blake3.blake3(size_bytes.to_bytes(8, "little") + cutter.encode() + digests, key=key).digest()


def _weight(entries: SpanMap) -> int:
    return len(entries) + 64  # an empty one costs something, too


class DiskMap:
    """A stored map, read as needed. Thread-safe. The root digest covers every span's digest, and is checked at opening.

    Raises, from every method that reads: IntegrityError.
    """

    def __init__(self, ref: DiskMapRef, reader: PackReader, metadata_id_key: bytes, *, sound_under: str = "") -> None:
        self.ref, self.sound_under = ref, sound_under
        self._reader, self._key = reader, metadata_id_key
        count = span_count(ref.size_bytes)
        if ref.size_bytes > DISK_LIMIT_BYTES or len(ref.pages) != -(-count // PAGE_SPANS):
            raise PackCorrupt(f"a disk of {ref.size_bytes} bytes cannot have {len(ref.pages)} list pages")
        pages = {page: bytes(plain) for page, plain in reader.read_many(list(dict.fromkeys(ref.pages)), Kind.PAGE)}
        if any(len(page) > PAGE_SPANS * _SLOT for page in pages.values()):  # a disk may name one a thousand times
            raise PackCorrupt("a list page is longer than its spans need")
        self._table = b"".join(pages[page] for page in ref.pages)
        if len(self._table) != count * _SLOT or self._digest() != ref.root:
            raise PackCorrupt("a disk's list pages do not match its root digest")
        self._resolved: dict[int, tuple[SpanMap, int]] = {}

    def __len__(self) -> int:
        return len(self._table) // _SLOT

    def slot(self, span: int) -> bytes:
        """A span's digest, leaf id and data bytes; all zeros for a hole."""
        return self._table[span * _SLOT : (span + 1) * _SLOT]

    def _digest(self) -> bytes:
        """Of the whole table at once: a disk of 64 TiB has two million spans."""
        digests = self.slots()[:, :32].tobytes()
        return _root_digest(self.ref.size_bytes, self.ref.cutter, digests, self._key)

    def slots(self) -> NDArray[np.uint8]:
        """All slots, one a row, as they are stored; see `slot`."""
        return np.frombuffer(self._table, np.uint8).reshape(-1, _SLOT)

    def held(self) -> NDArray[np.bool_]:
        """Which spans are no holes."""
        return np.asarray(self.slots().any(axis=1))

    def leaf(self, span: int) -> ChunkId | None:
        """The chunk that holds a span's leaf, None for a hole."""
        slot = self.slot(span)
        return None if slot == _HOLE else ChunkId(slot[32:64])

    def lineage(self, span: int) -> list[ChunkId]:
        """The chunks of a span's leaf and of those that it is a patch of."""
        return [leaf for leaf, _ in self._lineage(span)]

    def read_metadata(self, chunk: ChunkId, kind: Kind) -> bytes:
        """A leaf or list page as it is stored."""
        return self._reader.read_one(chunk, kind)

    def span(self, span: int) -> SpanMap:
        """A span's chunks, checked against its digest."""
        return self.resolved(span)[0]

    def resolved(self, span: int) -> tuple[SpanMap, int]:
        """A span's chunks, and how many patches its leaf is away from its keyframe."""
        found = self._resolved.get(span)
        if found is None:
            found = self._resolve(span)
            known = dict(self._resolved)
            if sum(_weight(entries) for entries, _ in known.values()) >= _CACHED_ENTRIES:
                known = {}
            self._resolved = known | {span: found}
        return found

    def fresh(self, span: int) -> SpanMap:
        """A span's chunks, checked like any, for who needs them once."""
        return self._resolve(span)[0]

    def _resolve(self, span: int) -> tuple[SpanMap, int]:
        patches: list[Patch] = []
        entries = _EMPTY
        for _, decoded in self._lineage(span):
            if isinstance(decoded, Patch):
                patches.append(decoded)
            else:
                entries = decoded
        for patch in reversed(patches):
            entries = apply(entries, patch.splices)
        if self.leaf(span) is not None and span_digest(entries, self._key) != self.slot(span)[:32]:
            raise PackCorrupt(f"span {span}: its leaf does not match its digest")
        return entries, len(patches)

    def _lineage(self, span: int) -> Iterator[tuple[ChunkId, SpanMap | Patch]]:
        """A span's leaf and the leaves it is a patch of, down to the keyframe."""
        leaf = self.leaf(span)
        for _ in range(MAX_DEPTH + 1):
            if leaf is None:
                return
            decoded = decode(self._reader.read_one(leaf, Kind.LEAF))
            yield leaf, decoded
            leaf = decoded.parent if isinstance(decoded, Patch) else None
        if leaf is not None:
            raise PackCorrupt(f"span {span}: more than {MAX_DEPTH} patches deep")


class DiskMapWriter:
    """A new map, span by span. Thread-safe while no two threads are at one span.

    Spans that are not set are holes; `keep` shares the base's. `store` takes a metadata chunk and returns its id.
    `sound` says of a span of the base whether its leaf, and all it is a patch of, can be relied on.
    """

    def __init__(
        self,
        size_bytes: int,
        cutter: str,
        base: DiskMap | None,
        *,
        store: Callable[[Kind, bytes], ChunkId],
        metadata_id_key: bytes,
        sound: Callable[[DiskMap, int], bool] = lambda *_: True,
    ) -> None:
        if not 0 <= size_bytes <= DISK_LIMIT_BYTES:
            raise ValueError(f"a disk of {size_bytes} bytes is beyond the format's {DISK_LIMIT_BYTES}")
        self.size_bytes, self.cutter = size_bytes, cutter
        self._base, self._store, self._key, self._sound = base, store, metadata_id_key, sound
        self._slots = [_HOLE] * span_count(size_bytes)

    def __len__(self) -> int:
        return len(self._slots)

    def keep(self, span: int) -> None:
        """This span is as in the base."""
        if self._base is None:
            raise ValueError("there is no base to keep a span of")
        self._slots[span] = self._base.slot(span)

    def set(self, span: int, entries: SpanMap) -> None:
        """This span consists of these chunks."""
        if not len(entries):
            self._slots[span] = _HOLE
            return
        digest = span_digest(entries, self._key)
        base = self._base if self._base and span < len(self._base) and self._sound(self._base, span) else None
        if base and base.slot(span)[:32] == digest:
            self._slots[span] = base.slot(span)
        else:
            leaf = self._store(Kind.LEAF, self._leaf(span, entries, base, digest))
            self._slots[span] = digest + leaf + entries.data_bytes.to_bytes(4, "little")

    def _leaf(self, span: int, entries: SpanMap, base: DiskMap | None, digest: bytes) -> bytes:
        keyframe = encode_keyframe(entries)
        parent = base.leaf(span) if base else None
        if base is None or parent is None:
            return keyframe
        try:
            before, depth = base.resolved(span)
        except IntegrityError:
            return keyframe  # whoever restores the base meets the damage; this point does without
        if keyframe_due(depth, digest):
            return keyframe
        patch = encode_patch(Patch(depth + 1, parent, difference(before, entries)))
        return patch if 2 * len(patch) < len(keyframe) else keyframe

    def finish(self) -> DiskMapRef:
        """Store the list pages."""
        starts = range(0, len(self._slots), PAGE_SPANS)
        pages = [self._store(Kind.PAGE, b"".join(self._slots[at : at + PAGE_SPANS])) for at in starts]
        root = root_digest(self.size_bytes, self.cutter, self._slots, self._key)
        data_bytes = sum(int.from_bytes(slot[64:], "little") for slot in self._slots)
        return DiskMapRef(self.size_bytes, data_bytes, self.cutter, tuple(pages), root)
