"""The rule `fastcdc-1` once more, byte by byte, and the bytes its vectors are made of."""

from support.page_rule import random_bytes

SAMPLES: dict[str, bytes] = {
    "nothing": b"",
    "one byte": b"\x01",
    "shorter than the least piece": random_bytes("short", 16383),
    "random, 2 MiB": random_bytes("random", 2 << 20),
    "random with a byte before it": b"\x00" + random_bytes("random", 1 << 20),
    "a .vmx": b"".join(b'ethernet%d.generatedAddress = "00:50:56:%02x"\n' % (line, line % 256) for line in range(9000)),
    "zeros": bytes(600_000),
    "0xff": b"\xff" * 600_000,
}


def cut_slowly(gear: list[int], data: bytes) -> list[list[int]]:
    """The pieces of a stream, as [start, length]."""
    pieces = []
    start = 0
    while start < len(data):
        length = _piece(gear, data[start : start + (256 << 10)])
        pieces.append([start, length])
        start += length
    return pieces


def _piece(gear: list[int], data: bytes) -> int:
    pattern = 0
    for at in range(16 << 10, len(data)):
        pattern = (pattern >> 1) + gear[data[at]]
        mask = (1 << 17) - 1 if at < 40 << 10 else (1 << 15) - 1
        if pattern & mask == 0:
            return at + 1
    return len(data)
