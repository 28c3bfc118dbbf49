"""The layout of a pack: filling one in memory, reading one's directory, opening its chunks.

Owns: FORMAT.md, "Packs". Does not own: which chunks go where and when a pack is put (packer), the index.
"""

import mmap
import secrets
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

import blake3
import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from numpy.typing import NDArray

from offhost.backend.contract import Backend
from offhost.chunking.compress import Codec, decompress
from offhost.chunking.spans import ChunkRef, CompressedChunk
from offhost.errors import ChunkCorrupt, PackCorrupt
from offhost.ids import ChunkId
from offhost.repository.keys.keyring import Keyring

PACK_LIMIT_BYTES = 64 << 20
CHUNK_LIMIT_BYTES = 4 << 20
SLOTS_LIMIT = 1_000_000
HEADER_BYTES = 44
TAG_BYTES = 16

_MAGIC = b"OFFPACK\x01"
_TYPE, _SUITE = 1, 1
_SEALING_KIND = 0
_HEADER = struct.Struct("<8sBBH32s")
_ASSOCIATED = struct.Struct("<IBBI32s")
_LENGTH = struct.Struct("<I")
_DIRECTORY_NONCE = b"\x01" + bytes(11)

DIRECTORY = np.dtype([("id", "V32"), ("kind", "u1"), ("codec", "u1"), ("stored", "<u4"), ("plain", "<u4")])
"""A slot of a pack's directory."""

ENTRY = np.dtype(
    [
        ("id", "V32"),
        ("pack", "<u4"),
        ("slot", "<u4"),
        ("offset", "<u4"),
        ("stored", "<u4"),
        ("plain", "<u4"),
        ("kind", "u1"),
        ("codec", "u1"),
    ]
)
"""Where a chunk lies; `pack` is a position in a list of names that is kept beside."""

Entries = NDArray[np.void]


class Kind(IntEnum):
    """What a chunk is; the values are part of the format."""

    CONTENT = 1
    LEAF = 2
    PAGE = 3


class Location(NamedTuple):
    """Where one chunk lies."""

    pack: str
    slot: int
    offset: int
    stored: int
    plain: int
    kind: int
    codec: int

    @property
    def where(self) -> str:
        """For messages."""
        return f"pack {self.pack[:12]}, slot {self.slot}, byte {self.offset}"


class CipherRecipe(NamedTuple):
    """What makes the cipher of one pack, for another process of this program: it has the pack's key in it."""

    header: bytes
    repository_id: bytes
    key: bytes

    def cipher(self) -> "PackCipher":
        """The cipher."""
        return PackCipher(self, AESGCM(self.key))


@dataclass(frozen=True, slots=True)
class PackCipher:
    """The cipher of one pack, from its header; opens and seals its chunks. Thread-safe."""

    recipe: CipherRecipe = field(repr=False)
    aes: AESGCM = field(repr=False)

    @staticmethod
    def of(keyring: Keyring, header: bytes, name: str) -> "PackCipher":
        """Raises: PackCorrupt when this is not a pack's header."""
        if len(header) != HEADER_BYTES:
            raise PackCorrupt(f"{name}: cut short within its header")
        magic, kind, suite, epoch, salt = _HEADER.unpack(header)
        if (magic, kind, suite) != (_MAGIC, _TYPE, _SUITE):
            raise PackCorrupt(f"{name}: its header is not that of a pack")
        return CipherRecipe(header, keyring.repository_id, keyring.sealing_key(epoch, _SEALING_KIND, salt)).cipher()

    def associated(self, slot: int, chunk: bytes, *, kind: int, codec: int, plain: int) -> bytes:
        """What a chunk's seal binds it to."""
        return self.recipe.header + self.recipe.repository_id + _ASSOCIATED.pack(slot, kind, codec, plain, chunk)

    def open_chunk(self, chunk: ChunkId, at: Location, sealed: bytes | memoryview, id_key: bytes) -> bytes | memoryview:
        """A chunk's plaintext, checked twice: its tag, then its id recomputed. Raises: ChunkCorrupt."""
        return self.unpack_chunk(chunk, at, sealed, id_key).plain

    def unpack_chunk(self, chunk: ChunkId, at: Location, sealed: bytes | memoryview, id_key: bytes) -> CompressedChunk:
        """A chunk as it was sealed, with its plaintext, checked alike. Raises: ChunkCorrupt."""
        try:
            packed = self.aes.decrypt(
                _nonce(at.slot), sealed, self.associated(at.slot, chunk, kind=at.kind, codec=at.codec, plain=at.plain)
            )
        except InvalidTag as error:
            raise ChunkCorrupt(f"{at.where}: chunk {chunk.hex()[:12]} fails its seal") from error
        plain = decompress(at.codec, packed, at.plain)
        if blake3.blake3(plain, key=id_key).digest() != chunk:
            raise ChunkCorrupt(f"{at.where}: the content is not that of chunk {chunk.hex()[:12]}")
        return CompressedChunk(chunk, Codec(at.codec), at.plain, packed, memoryview(plain))

    def seal_chunk(self, chunk: CompressedChunk, kind: int, slot: int, into: memoryview) -> None:
        """Seal a chunk into as much room as it has bytes, and TAG_BYTES more. No slot is used twice."""
        associated = self.associated(slot, chunk.id, kind=kind, codec=chunk.codec, plain=chunk.plain_bytes)
        self.aes.encrypt_into(_nonce(slot), chunk.data, associated, into)

    def check_sealed(self, chunk: CompressedChunk, kind: int, slot: int, sealed: memoryview) -> None:
        """Open a chunk that was just sealed, and compare it with what it came from. Raises: ChunkCorrupt.

        What this catches is a fault of memory, processor or compressor between the disk and the seal, which a tag
        made afterwards would cover up.
        """
        associated = self.associated(slot, chunk.id, kind=kind, codec=chunk.codec, plain=chunk.plain_bytes)
        packed = bytearray(len(sealed) - TAG_BYTES)
        try:
            self.aes.decrypt_into(_nonce(slot), sealed, associated, packed)
        except InvalidTag as error:
            raise ChunkCorrupt(f"chunk {chunk.id.hex()[:12]} does not open right after it was sealed") from error
        read_back = decompress(chunk.codec, packed, chunk.plain_bytes)
        # as memory: anything but a bytearray is compared element by element
        if (read_back if isinstance(read_back, bytearray) else bytearray(read_back)) != chunk.plain:
            raise ChunkCorrupt(f"chunk {chunk.id.hex()[:12]} read back differs from what was read from the source")

    def open_directory(self, name: str, sealed: bytes) -> Entries:
        """A pack's directory as index entries, all with pack 0. Raises: PackCorrupt."""
        try:
            plain = self.aes.decrypt(_DIRECTORY_NONCE, sealed, self.recipe.header + self.recipe.repository_id)
            slots = np.frombuffer(plain, DIRECTORY)
        except (InvalidTag, ValueError) as error:
            raise PackCorrupt(f"{name}: its directory fails its seal") from error
        return located(slots)


def _nonce(slot: int) -> bytes:
    return slot.to_bytes(12, "big")


def located(slots: Entries) -> Entries:
    """A directory with the places its slots come to lie at."""
    entries = np.zeros(len(slots), ENTRY)
    for column in ("id", "kind", "codec", "stored", "plain"):
        entries[column] = slots[column]
    entries["slot"] = np.arange(len(slots))
    ends = np.cumsum(slots["stored"], dtype=np.uint64)
    entries["offset"] = HEADER_BYTES + ends - slots["stored"]
    return entries


def pack_buffer() -> mmap.mmap:
    """Memory for one pack, given page by page as it is filled: a small backup does not pay for all of it."""
    return mmap.mmap(-1, PACK_LIMIT_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


class OpenPack:
    """A pack being filled in a `pack_buffer`. For one thread at a time.

    Invariant: below `size_bytes` lie the header and whole sealed chunks, and room for directory and trailer is left.
    """

    def __init__(self, keyring: Keyring, buffer: mmap.mmap) -> None:
        header = _HEADER.pack(_MAGIC, _TYPE, _SUITE, keyring.epoch, secrets.token_bytes(32))
        self.cipher = PackCipher.of(keyring, header, "a new pack")
        self._slots: list[tuple[bytes, int, int, int, int]] = []
        self._sealed = False
        self.buffer = buffer
        buffer[:HEADER_BYTES] = header
        self.size_bytes = HEADER_BYTES

    def __len__(self) -> int:
        return len(self._slots)

    def fits(self, data_bytes: int) -> bool:
        """Whether a chunk of this many compressed bytes still has room."""
        return not self._sealed and has_room(self.size_bytes, len(self._slots), data_bytes)

    def add(self, chunk: CompressedChunk, kind: Kind) -> None:
        """Seal a chunk behind the last."""
        start = self.size_bytes
        end = start + len(chunk.data) + TAG_BYTES
        with memoryview(self.buffer) as view:
            self.cipher.seal_chunk(chunk, kind, len(self._slots), view[start:end])
        self._slots.append((chunk.id, kind, chunk.codec, end - start, chunk.plain_bytes))
        self.size_bytes = end

    def check_last(self, chunk: CompressedChunk, kind: Kind) -> None:
        """Check the chunk that was added last. Raises: ChunkCorrupt when it does not read back."""
        *_, stored, _ = self._slots[-1]
        with memoryview(self.buffer) as view:
            sealed = view[self.size_bytes - stored : self.size_bytes]
            self.cipher.check_sealed(chunk, kind, len(self._slots) - 1, sealed)

    def adopt(
        self, chunks: Sequence[ChunkRef], kind: Kind, sealed: Sequence[tuple[int, int]], data: memoryview
    ) -> None:
        """Add chunks that were sealed elsewhere for the next slots of this pack, with their codecs and sizes."""
        end = self.size_bytes + sum(stored for _, stored in sealed)
        self.buffer[self.size_bytes : end] = data[: end - self.size_bytes]
        for chunk, (codec, stored) in zip(chunks, sealed, strict=True):
            self._slots.append((chunk.id, kind, codec, stored, chunk.length))
        self.size_bytes = end

    def withdraw_behind(self, count: int) -> None:
        """Let go of all chunks but the first so many. No more may be added: a slot's nonce is not used twice."""
        self.size_bytes -= sum(stored for *_, stored, _ in self._slots[count:])
        del self._slots[count:]
        self._sealed = True

    def check_all(self, id_keys: Mapping[int, bytes]) -> None:
        """Open every chunk and compute its id anew. Raises: ChunkCorrupt."""
        with memoryview(self.buffer) as view:
            for identity, _, *place in located(np.array(self._slots, DIRECTORY)).tolist():
                at = Location("being filled", *place)
                sealed = view[at.offset : at.offset + at.stored]
                self.cipher.open_chunk(ChunkId(identity), at, sealed, id_keys[at.kind])

    def close(self) -> tuple[str, Entries]:
        """Append directory and trailer; the pack's name (BLAKE3 of its bytes) and where its chunks lie."""
        slots = np.array(self._slots, DIRECTORY) if self._slots else np.zeros(0, DIRECTORY)
        sealed = self.cipher.aes.encrypt(
            _DIRECTORY_NONCE, slots.tobytes(), self.cipher.recipe.header + self.cipher.recipe.repository_id
        )
        tail = sealed + _LENGTH.pack(len(sealed))
        self.buffer[self.size_bytes : self.size_bytes + len(tail)] = tail
        self.size_bytes += len(tail)
        with memoryview(self.buffer) as view:
            return blake3.blake3(view[: self.size_bytes]).hexdigest(), located(slots)


def has_room(size_bytes: int, slots: int, data_bytes: int) -> bool:
    """Whether a pack of so many bytes and slots has room for another chunk's compressed bytes."""
    directory = (slots + 1) * DIRECTORY.itemsize + TAG_BYTES + _LENGTH.size
    return size_bytes + data_bytes + TAG_BYTES + directory <= PACK_LIMIT_BYTES


def pack_object(name: str) -> str:
    """The object of a pack."""
    return f"packs/{name[:2]}/{name}"


def read_header(backend: Backend, keyring: Keyring, name: str) -> PackCipher:
    """A pack's cipher. Raises: ObjectNotFound; PackCorrupt."""
    return PackCipher.of(keyring, backend.get_range(pack_object(name), 0, HEADER_BYTES), pack_object(name))


def read_directory(backend: Backend, keyring: Keyring, name: str) -> Entries:
    """What a pack says it holds. Raises: ObjectNotFound; PackCorrupt."""
    path = pack_object(name)
    size = backend.size(path)
    if not HEADER_BYTES + TAG_BYTES + _LENGTH.size <= size <= PACK_LIMIT_BYTES:
        raise PackCorrupt(f"{path}: {size} bytes cannot be a pack")
    length = int.from_bytes(backend.get_range(path, size - _LENGTH.size, _LENGTH.size), "little")
    end = size - _LENGTH.size
    if not TAG_BYTES <= length <= end - HEADER_BYTES:
        raise PackCorrupt(f"{path}: a directory of {length} bytes cannot be in it")
    entries = read_header(backend, keyring, name).open_directory(path, backend.get_range(path, end - length, length))
    stored = int(entries["stored"].sum(dtype=np.uint64))
    if (
        HEADER_BYTES + stored != end - length
        or len(entries) > SLOTS_LIMIT
        or (entries["stored"] < TAG_BYTES).any()
        or (entries["plain"] > CHUNK_LIMIT_BYTES).any()
    ):
        raise PackCorrupt(f"{path}: its directory contradicts its size")
    return entries
