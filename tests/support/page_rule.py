"""The rule `page-1` once more, slowly and word by word, and the bytes its vectors are made of.

Written from the rule's description and from nothing of `offhost.chunking`, so that the two can be held together.
"""

import struct
from collections.abc import Callable

from blake3 import blake3

PAGE = 4096
_MASK = 2**64 - 1
THRESHOLD = _MASK // 12


def sampled_words(secret: bytes) -> tuple[list[int], list[int]]:
    """The 32 word positions in a page and their multipliers."""
    derived = struct.unpack("<64Q", blake3(b"page-1 words", key=secret).digest(length=512))
    positions = sorted(range(16), key=lambda at: derived[at]) + sorted(range(16), key=lambda at: derived[16 + at])
    return [16 * block + position for block, position in enumerate(positions)], [value | 1 for value in derived[32:]]


def page_hash(page: bytes, words: list[int], multipliers: list[int]) -> int:
    """The mixed 64-bit hash of one whole page."""
    values: tuple[int, ...] = struct.unpack("<512Q", page)
    total = sum(factor * values[word] for word, factor in zip(words, multipliers, strict=True)) & _MASK
    total ^= total >> 29
    total = total * 0xBF58476D1CE4E5B9 & _MASK
    total ^= total >> 32
    total = total + 0x9E3779B97F4A7C15 & _MASK
    return total * 0x94D049BB133111EB & _MASK


def cut_slowly(secret: bytes, data: bytes) -> list[tuple[int, int]]:
    """The pieces of one span, as (start, length)."""
    words, multipliers = sampled_words(secret)
    pages = [data[at : at + PAGE].ljust(PAGE, b"\0") for at in range(0, len(data), PAGE)]
    hole = _in_holes([not any(page) for page in pages])
    pieces: list[tuple[int, int]] = []
    first = 0
    for at, page in enumerate(pages):
        if hole[at]:
            first = at + 1
            continue
        count = at + 1 - first
        is_end = count >= 4 and page_hash(page, words, multipliers) < THRESHOLD
        if is_end or count == 64 or at + 1 == len(pages) or hole[at + 1]:
            pieces.append((first * PAGE, min((at + 1) * PAGE, len(data)) - first * PAGE))
            first = at + 1
    return pieces


def _in_holes(zero: list[bool]) -> list[bool]:
    hole = [False] * len(zero)
    for first in range(len(zero) - 3):
        if all(zero[first : first + 4]):
            hole[first : first + 4] = [True] * 4
    return hole


def random_bytes(name: str, length: int) -> bytes:
    """Bytes that anybody can make again: BLAKE3 of a name, extended."""
    return blake3(name.encode()).digest(length=length)


def postgresql_pages(count: int, varying_byte: int | None = None) -> bytes:
    """Heap pages of 8 KiB full of tuples of 128 bytes, laid out from the page's end as PostgreSQL does.

    Each tuple holds its block's number in its header and a key; with `varying_byte`, tuples are equal but for the
    8 bytes there, which hold the block's number: the hardest case for sampling at a fixed stride.
    """
    pages = []
    for block in range(count):
        page = bytearray(8192)
        struct.pack_into("<IIHHHHHHI", page, 0, 0, 0x16B3740, 0, 4, 24 + 61 * 4, 8192 - 61 * 128, 8192, 8196, 0)
        for slot in range(61):
            at = 8192 - (slot + 1) * 128
            struct.pack_into("<I", page, 24 + 4 * slot, at | 1 << 15 | 128 << 17)
            if varying_byte is None:
                struct.pack_into("<IIIHHHHHB", page, at, 742, 0, 0, block >> 16, block & 0xFFFF, slot + 1, 4, 0x902, 24)
                struct.pack_into("<Qq", page, at + 24, block * 61 + slot, -1)
                page[at + 40 : at + 128] = b"a pgbench filler".ljust(88)
            else:
                page[at : at + 128] = b"the same tuple again and again, ".ljust(128, b"x")
                struct.pack_into("<Q", page, at + varying_byte, block)
        pages.append(bytes(page))
    return b"".join(pages)


def innodb_pages(count: int) -> bytes:
    """Index pages of 16 KiB as InnoDB lays them out: header, records of 64 bytes, trailer."""
    pages = []
    for number in range(count):
        page = bytearray(16384)
        lsn = 0x1A2B3C00 + number * 0x40
        struct.pack_into(">IIIIQHQI", page, 0, number * 2654435761 & 0xFFFFFFFF, number, max(number - 1, 0), number + 1,
                         lsn, 17855, 0, 23)  # fmt: skip
        page[94:120] = b"\x01\x00\x02\x00\x1binfimum\0\x05\x00\x0b\x00\x00supremum"
        for record in range(240):
            at = 128 + record * 64
            struct.pack_into(">QIHQ", page, at, number * 240 + record, 0x8000 + record, 700, lsn)
            page[at + 22 : at + 64] = b"a name and a street in a town".ljust(42)
        struct.pack_into(">II", page, 16376, number * 2654435761 & 0xFFFFFFFF, lsn & 0xFFFFFFFF)
        pages.append(bytes(page))
    return b"".join(pages)


def page_of_unseen_bytes(secret: bytes) -> bytes:
    """A page that is not zero but in the words that are sampled under a secret."""
    page = bytearray(b"\xa5" * PAGE)
    for word in sampled_words(secret)[0]:
        page[8 * word : 8 * word + 8] = bytes(8)
    return bytes(page)


def constant_pages(secret: bytes, *, end_a_piece: bool) -> bytes:
    """200 equal pages of the lowest byte value above zero whose page may, or may not, end a piece."""
    words, multipliers = sampled_words(secret)
    pages = (bytes([value]) * PAGE for value in range(1, 256))
    return 200 * next(page for page in pages if (page_hash(page, words, multipliers) < THRESHOLD) is end_a_piece)


def _holes() -> bytes:
    runs = [5, 3, 4, 1, 9, 4]
    data = b"".join(bytes(run * PAGE) + random_bytes(f"after hole {at}", 7 * PAGE) for at, run in enumerate(runs))
    return data + bytes(3 * PAGE + 512)


SAMPLES: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda _: b"",
    "one byte": lambda _: b"\x01",
    "random, 2 MiB": lambda _: random_bytes("random", 2 << 20),
    "random, a last page of 512 bytes": lambda _: random_bytes("random", (1 << 20) + 512),
    "random, a last page of 4095 bytes": lambda _: random_bytes("another", (1 << 20) - 1),
    "PostgreSQL heap pages": lambda _: postgresql_pages(200),
    "PostgreSQL heap pages that differ in one field": lambda _: postgresql_pages(200, varying_byte=40),
    "InnoDB index pages": lambda _: innodb_pages(100),
    "constant pages that may end a piece, and 100 bytes": lambda key: (
        constant_pages(key, end_a_piece=True) + b"a" * 100
    ),
    "constant pages that may not end a piece": lambda secret: constant_pages(secret, end_a_piece=False),
    "pages whose sampled words are zero": lambda secret: page_of_unseen_bytes(secret) * 70,
    "holes and runs too short for one, the last one ended by a short page": lambda _: _holes(),
    "zeros": lambda _: bytes(300 * PAGE + 17),
    "three zero pages": lambda _: bytes(3 * PAGE),
}
"""What the vectors are made of, by name; some depend on the secret."""
