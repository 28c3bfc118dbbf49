"""Repositories in which somebody with the key, or a bug, has written lies.

Each lie is met by opening, listing, restoring, verifying and backing up. Each of these succeeds or is refused with one
of offhost's errors, in bounded time and memory; points that the lie is not about read back right.
"""

import json
import logging
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import lz4.block
import numpy as np
import pytest
import zstandard

from faults.campaign import Tally, some
from faults.liar import CONTENT, LEAF, LZ4, PAGE, RAW, SPAN_BYTES, ZSTD, Liar, Stored, keyframe, patch
from faults.story import Violation, World, collected
from offhost.backend.local import LocalBackend
from offhost.errors import OffhostError
from offhost.repository.chunks.runs import Run, get_run, put_run
from offhost.repository.objects.sealed import ObjectType
from offhost.repository.repository import Repository
from offhost.repository.verification.verify import verify
from support.repositories import Memory, back_up, content, noise, opened

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

Lie = Callable[[Liar], object]

SECONDS, MEBIBYTES = 60, 1024
"""What a lie may cost, on a machine that is busy. A true disk of 64 TiB costs two thirds of it: two million spans."""


@contextmanager
def bounded() -> Iterator[None]:
    """Fails when what is done takes too long or too much memory."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew: proc(5)
    before, began = _peak_bytes(), time.monotonic()
    yield
    taken_s, peak_bytes = time.monotonic() - began, _peak_bytes() - before
    if taken_s > SECONDS or peak_bytes > MEBIBYTES << 20:
        raise Violation(f"took {taken_s:.1f} s and {peak_bytes >> 20} MiB")


def _peak_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


def use(world: World) -> None:
    """What people do with a repository. Only offhost's own errors are expected of what is a lie."""
    beside = world.root.with_name("precious")
    beside.write_text("precious")
    with opened(world.root) as repository:
        _read(world, repository)
        with suppress(OffhostError):
            verify(repository, data=True, stop=threading.Event())
        with suppress(OffhostError):
            back_up(repository, Memory(noise(9, 100_000)), world.workers, name="liar")
        with suppress(OffhostError):
            collected(world, repository)
    with opened(world.root) as repository:
        _read(world, repository)
    if not beside.exists() or not (world.root / "config" / "00000001").exists():
        raise Violation("something was deleted that no collector may delete")


def _read(world: World, repository: Repository) -> None:
    """Everything that is listed; what nobody lied about must be right."""
    points, _ = repository.points.read()
    for point in points:
        restore = repository.restore_point(point)
        for disk in point.disks:
            with suppress(OffhostError):
                _read_ends(restore.disk(disk.key).read_into, disk.size_bytes)
        for file in point.files:
            with suppress(OffhostError):
                restore.file(file)
    for point in points:
        if point.id in world.committed and content(repository, point) != world.committed[point.id]:
            raise Violation(f"point {point.id}, of which nobody lied, reads back wrong")
    if missing := world.committed.keys() - {point.id for point in points}:
        raise Violation(f"points {missing}, of which nobody lied, are not there")


def _read_ends(read: Callable[[int, memoryview], None], size_bytes: int) -> None:
    """The first and the last of a disk: all of it may be 64 TiB."""
    part = min(size_bytes, 8 << 20)
    for at in (0, size_bytes - part):
        read(at, memoryview(bytearray(part)))


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


MANY = b"[" + b"[]," * 20_000_000 + b"[]]"

POINTS: dict[str, Lie] = {
    "sequence of infinity": lambda liar: liar.point({"sequence": float("inf")}),
    "sequence of NaN": lambda liar: liar.point({"sequence": float("nan")}),
    "sequence of 4000 digits": lambda liar: liar.point({"sequence": 10**4000}),
    "a sequence below zero": lambda liar: liar.point({"sequence": -1}),
    "a sequence that is a text": lambda liar: liar.point({"sequence": "1"}),
    "a time without a zone": lambda liar: liar.point({"time": "2026-01-01T00:00:00"}),
    "a time of the year one": lambda liar: liar.point({"time": "0001-01-01T00:00:00+23:59"}),
    "a time that is a number": lambda liar: liar.point({"time": 5}),
    "the id of another point": lambda liar: liar.point({"id": "0" * 32}),
    "an id that is a path": lambda liar: liar.point({"id": "../../../../etc/passwd"}),
    "another VM's identity": lambda liar: liar.point({"vm": {"id": "image/web", "name": "web"}}),
    "half a character": lambda liar: liar.point({"vm": {"id": "image/\ud800", "name": "\ud800"}}),
    "half a character in a name": lambda liar: liar.point({"vm": {"id": "image/liar", "name": "\ud800"}}),
    "a VM that is a list": lambda liar: liar.point({"vm": []}),
    "no disks but a number": lambda liar: liar.point({"disks": 7}),
    "a disk that is null": lambda liar: liar.point({"disks": [None]}),
    "a million empty disks": lambda liar: liar.point({"disks": [{}] * 1_000_000}),
    "a file of negative size": lambda liar: liar.point({"files": [{"name": "x", "size_bytes": -1, "chunks": []}]}),
    "a file of infinite size": lambda liar: liar.point(
        {"files": [{"name": "x", "size_bytes": float("inf"), "chunks": []}]}
    ),
    "a file of nothing that should be something": lambda liar: liar.point(
        {"files": [{"name": "x", "size_bytes": 5, "chunks": []}]}
    ),
    "a file whose one chunk is named half a million times": lambda liar: liar.point(
        {
            "files": [
                {"name": "x", "size_bytes": 1 << 40, "chunks": [liar.store(bytes(4 << 20), CONTENT).hex()] * 500_000}
            ]
        }
    ),
    "a chunk id that is too short": lambda liar: liar.point(
        {"files": [{"name": "x", "size_bytes": 1, "chunks": ["00"]}]}
    ),
    "a predecessor that is a text": lambda liar: liar.point({"predecessor": "x"}),
    "a predecessor of infinite id": lambda liar: liar.point({"predecessor": {"id": float("inf"), "digest": "00" * 32}}),
    "totals that are texts": lambda liar: liar.point({"totals": {"new_bytes": "many"}}),
    "a configuration that is a text": lambda liar: liar.point({"vm_config": "text"}),
    "an unknown format": lambda liar: liar.point({"format": 99}),
    "a tombstone that is nothing": lambda liar: liar.point({"tombstone": None}),
}

DISKS: dict[str, Lie] = {
    "a disk beyond 64 TiB": lambda liar: liar.point_of_disk({"size_bytes": 1 << 60}),
    "a disk of infinite size": lambda liar: liar.point_of_disk({"size_bytes": float("inf")}),
    "a disk of negative size": lambda liar: liar.point_of_disk({"size_bytes": -1}),
    "a disk without its pages": lambda liar: liar.point_of_disk({"size_bytes": 1 << 40}),
    "a page that is not there": lambda liar: liar.point_of_disk({"size_bytes": 5, "pages": ["00" * 32]}),
    "a page that is content": lambda liar: liar.point_of_disk(
        {"size_bytes": 5, "pages": [liar.store(bytes(68), CONTENT).hex()]}
    ),
    "64 TiB of one page": lambda liar: _one_page(liar, bytes(32) + bytes(32) + bytes(4)),
    "64 TiB of one page that names a leaf": lambda liar: _one_page(liar, liar.store(b"\x00" * 5, LEAF) * 2 + bytes(4)),
    "64 TiB of pages of 4 MiB": lambda liar: liar.point_of_disk(
        {"size_bytes": 64 << 40, "pages": [liar.store(bytes(4 << 20), PAGE).hex()] * 2048}
    ),
    "pages that do not fit the root": lambda liar: liar.point_of_disk(
        {"size_bytes": 5, "pages": [liar.store(bytes(68), PAGE).hex()]}
    ),
    "a page of 67 bytes": lambda liar: liar.point_of_disk(
        {"size_bytes": 5, "pages": [liar.store(bytes(67), PAGE).hex()]}
    ),
}


def _one_page(liar: Liar, slot: bytes) -> str:
    slots = [slot] * (2048 * 1024)
    page = liar.page(slots[:1024])
    root = liar.root_of(64 << 40, slots)
    return liar.point_of_disk({"size_bytes": 64 << 40, "pages": [page.hex()] * 2048, "root": root})


_ID = b"\x07" * 32

LEAVES: dict[str, Lie] = {
    "an empty leaf": lambda liar: liar.disk_of_leaf(b""),
    "a leaf of an unknown form": lambda liar: liar.disk_of_leaf(b"\x09" + bytes(100)),
    "four thousand million entries": lambda liar: liar.disk_of_leaf(b"\x00\xff\xff\xff\xff"),
    "entries that overlap": lambda liar: liar.disk_of_leaf(keyframe([(0, 8192, _ID), (4096, 8192, _ID)])),
    "entries that go back": lambda liar: liar.disk_of_leaf(keyframe([(8192, 4096, _ID), (0, 4096, _ID)])),
    "an entry that leaves its span": lambda liar: liar.disk_of_leaf(keyframe([(SPAN_BYTES - 1, 4096, _ID)])),
    "an entry at the end of all numbers": lambda liar: liar.disk_of_leaf(keyframe([((1 << 32) - 1, 1, _ID)])),
    "an entry of no bytes": lambda liar: liar.disk_of_leaf(keyframe([(0, 0, _ID)])),
    "an entry beyond the disk's end": lambda liar: liar.disk_of_leaf(
        keyframe([(0, 100_000, liar.store(bytes(100_000), CONTENT))]), size_bytes=512
    ),
    "a chunk longer than its entry": lambda liar: liar.disk_of_leaf(
        keyframe([(0, 4096, liar.store(bytes(8192), CONTENT))])
    ),
    "a chunk shorter than its entry": lambda liar: liar.disk_of_leaf(
        keyframe([(0, 8192, liar.store(bytes(4096), CONTENT))])
    ),
    "a hundred thousand chunks of one byte": lambda liar: liar.disk_of_leaf(
        keyframe([(at, 1, chunk) for chunk in [liar.store(b"x", CONTENT)] for at in range(100_000)])
    ),
    "a page as its own leaf": lambda liar: liar.disk_of_leaf_id(_ID, _ID),
    "a patch of nothing": lambda liar: liar.disk_of_leaf(patch(_ID, [], [], 1)),
    "a patch of depth zero": lambda liar: liar.disk_of_leaf(patch(_ID, [], [], 0)),
    "a patch of depth 255": lambda liar: liar.disk_of_leaf(patch(_ID, [], [], 255)),
    "a chain of patches longer than allowed": lambda liar: _chain(liar, 40, []),
    "a chain of patches that all expand": lambda liar: _chain(liar, 16, [(0, 0, 5_000)]),
    "patches with a hundred thousand splices": lambda liar: _chain(liar, 16, [(0, 0, 0)] * 100_000),
    "splices that overlap": lambda liar: _chain(liar, 1, [(0, 4, 0), (2, 4, 0)]),
    "splices that go back": lambda liar: _chain(liar, 1, [(3, 1, 0), (1, 1, 0)]),
    "a splice at the end of all numbers": lambda liar: _chain(liar, 1, [((1 << 32) - 1, (1 << 32) - 1, 0)]),
    "a splice that inserts what is not there": lambda liar: _chain(liar, 1, [(0, 0, (1 << 32) - 1)]),
    "splices whose sum wraps": lambda liar: _chain(liar, 1, [(0, 0, 1 << 31), (0, 0, 1 << 31)]),
}


def _chain(liar: Liar, depth: int, splices: list[tuple[int, int, int]]) -> str:
    leaf = liar.store(keyframe([(SPAN_BYTES - 4096, 4096, _ID)]), LEAF)
    taken = 0
    for step in range(1, depth + 1):
        count = sum(splice[2] for splice in splices) if splices and splices[0][2] < 1 << 20 else 0
        refs = [(at, 1, _ID) for at in range(taken, taken + count)]
        taken += count
        leaf = liar.store(patch(leaf, splices, refs, min(step, 16)), LEAF)
    return liar.disk_of_leaf_id(leaf, _ID)


def _bomb(liar: Liar, codec: int, packed: bytes, plain_bytes: int) -> None:
    chunk = liar.id_of(packed, CONTENT)
    liar.pack([Stored(chunk, packed, CONTENT, codec, plain_bytes)])
    liar.disk_of_leaf(keyframe([(0, 4 << 20, chunk)]))


PACKS: dict[str, Lie] = {
    "a zstd bomb": lambda liar: _bomb(liar, ZSTD, zstandard.ZstdCompressor().compress(bytes(1 << 30)), 4 << 20),
    "a zstd bomb that keeps its size to itself": lambda liar: _bomb(
        liar, ZSTD, zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1 << 30)), 4 << 20
    ),
    "a chunk that says it is 4 GiB": lambda liar: _bomb(liar, ZSTD, b"x", (1 << 32) - 1),
    "an lz4 bomb": lambda liar: _bomb(liar, LZ4, lz4.block.compress(bytes(256 << 20), store_size=False), 4 << 20),
    "a raw chunk longer than it says": lambda liar: _bomb(liar, RAW, bytes(5000), 4096),
    "an unknown codec": lambda liar: _bomb(liar, 77, bytes(4096), 4096),
    "a chunk of an unknown kind": lambda liar: liar.pack([Stored(_ID, b"x", 99, RAW, 1)]),
    "a chunk that is not what its id says": lambda liar: _bomb(liar, RAW, bytes(4096), 4096),
    "a pack of nothing": lambda liar: liar.pack([]),
    "a directory of odd length": lambda liar: liar.pack([], directory=bytes(41)),
    "a directory of a million slots": lambda liar: liar.pack([], directory=bytes(42 * 1_000_000)),
    "a directory that says it is longer than its pack": lambda liar: liar.pack([], said_length=(1 << 32) - 1),
    "a directory of no length": lambda liar: liar.pack([], said_length=0),
    "slots that say they are longer than the pack": lambda liar: liar.pack(
        [Stored(_ID, b"x", CONTENT, RAW, 1, said_stored=(1 << 32) - 1)] * 2
    ),
    "slots whose lengths wrap": lambda liar: liar.pack(
        [Stored(_ID, b"x" * 84, CONTENT, RAW, 1, said_stored=1 << 31)] * 4
    ),
    "a slot shorter than a seal": lambda liar: liar.pack(
        [Stored(_ID, b"", CONTENT, RAW, 0, said_stored=3), Stored(_ID, b"", CONTENT, RAW, 0, said_stored=29)]
    ),
    "a pack of 65 MiB": lambda liar: liar.write(f"packs/aa/{'aa' * 32}", bytes(65 << 20)),
    "a pack of no bytes": lambda liar: liar.write(f"packs/aa/{'aa' * 32}", b""),
    "an object that is no pack's name": lambda liar: liar.write("packs/aa/README", b"hello"),
}


def _run(liar: Liar, head: bytes, entries: bytes = b"", *, said: int | None = None) -> str:
    plain = struct.pack("<I", len(head) if said is None else said) + head + entries
    return liar.seal_plain(ObjectType.INDEX, "index/" + "0" * 32, plain)


def _all_runs_shifted(liar: Liar, offset: int) -> None:
    """Every run says of every chunk another place, or another length."""
    backend, keyring = LocalBackend(liar.world.root), liar.world.keyring
    for item in list(backend.list("index/")):
        run = get_run(backend, keyring, item.name)
        entries = np.array(run.entries)
        entries["offset"] += offset
        entries["stored"] -= 0 if offset else 1
        backend.delete(item.name)
        put_run(backend, keyring, Run(run.packs, entries, run.shard))


def _entry(pack: int, slot: int, offset: int, stored: int, plain: int = 4096) -> bytes:
    return struct.pack("<32sIIIIIBB", _ID, pack, slot, offset, stored, plain, 1, 0)


def _packs_of(liar: Liar) -> list[str]:
    return sorted(path.name for path in (liar.world.root / "packs").rglob("*") if path.is_file())


def _head(packs: list[str], **changes: object) -> bytes:
    return json.dumps({"packs": packs, "supersedes": [], "shard": [0, 0]} | changes).encode()


RUNS: dict[str, Lie] = {
    "a run of nothing": lambda liar: liar.seal_plain(ObjectType.INDEX, "index/" + "0" * 32, b""),
    "a run whose head is longer than it": lambda liar: _run(liar, b"{}", said=(1 << 32) - 1),
    "a run whose head is a number": lambda liar: _run(liar, b"5"),
    "a run whose head is nested deep": lambda liar: _run(liar, nested(1_000_000)),
    "a run whose head has ten million lists": lambda liar: _run(liar, MANY),
    "a run of half an entry": lambda liar: _run(liar, _head(["aa" * 32]), bytes(20)),
    "a run with a pack that it does not name": lambda liar: _run(liar, _head(["aa" * 32]), _entry(7, 0, 44, 100)),
    "a run with entries behind the pack's end": lambda liar: _run(
        liar, _head(["aa" * 32]), _entry(0, 0, (1 << 32) - 1, (1 << 32) - 1)
    ),
    "a run with a chunk of 4 GiB": lambda liar: _run(
        liar, _head(["aa" * 32]), _entry(0, 0, 44, 100, plain=(1 << 32) - 1)
    ),
    "a run whose shard is nonsense": lambda liar: _run(liar, _head(["aa" * 32], shard=["x", None])),
    "a run whose shard has a thousand bits": lambda liar: _run(liar, _head(["aa" * 32], shard=[1000, 10**300])),
    "a run whose shard is infinite": lambda liar: _run(liar, _head(["aa" * 32], shard=[float("inf"), 0])),
    "a run whose shard is below zero": lambda liar: _run(liar, _head(["aa" * 32], shard=[-5, -5])),
    "a run that names packs that are numbers": lambda liar: _run(liar, _head([1, None, []])),  # type: ignore[list-item] # that is the lie
    "a run that supersedes all and itself": lambda liar: _run(
        liar, _head([], supersedes=[path.name for path in (liar.world.root / "index").iterdir()] + ["0" * 32])
    ),
    "a run that supersedes paths": lambda liar: _run(liar, _head([], supersedes=["../config/00000001"])),
    "a run that names real packs and puts their chunks elsewhere": lambda liar: _run(
        liar, _head(_packs_of(liar)), _entry(0, 0, 50, 60)
    ),
    "runs that tell of real chunks where they do not lie": lambda liar: _all_runs_shifted(liar, 16),
    "runs that tell of real chunks shorter than they are": lambda liar: _all_runs_shifted(liar, 0),
    "a zstd bomb of a run": lambda liar: liar.seal(
        ObjectType.INDEX, "index/" + "0" * 32, zstandard.ZstdCompressor().compress(bytes(600 << 20))
    ),
    "a run that is not zstd": lambda liar: liar.seal(ObjectType.INDEX, "index/" + "0" * 32, b"plain"),
}

_OTHERS = {
    "condemned": (ObjectType.CONDEMNED, "condemned/00000001"),
    "sweep": (ObjectType.SWEEP, "sweeps/00000001"),
    "session": (ObjectType.SESSION, "sessions/" + "0" * 32),
    "heartbeat": (ObjectType.HEARTBEAT, "sessions/" + "0" * 32 + ".1"),
    "forgotten mark": (ObjectType.MARK, "marks/forgotten-" + "0" * 32),
    "pin": (ObjectType.MARK, "marks/pin-" + "0" * 32),
    "damage mark": (ObjectType.MARK, "marks/damage-" + "0" * 64 + "-" + "0" * 16),
    "point": (ObjectType.POINT, "points/" + "0" * 32 + "/" + "0" * 32),
}

_PAYLOADS: dict[str, bytes] = {
    "no JSON": b"\xff\xfe",
    "a number": b"5",
    "nothing": b"",
    "an empty object": b"{}",
    "a million levels": nested(1_000_000),
    "twenty million lists": b'{"packs":' + MANY + b"}",
    "lists of everything": b'{"packs":[1,null,{},"../../x"],"points":[[],"/etc/passwd"],"slots":[-1,1e999,NaN],'
    b'"point":["x"],"kind":{},"time":7,"note":[],"pid":-5,"started":Infinity}',
    "texts for lists": b'{"packs":"abc","points":"def","slots":"ghi","point":"/etc","kind":"write"}',
    "a number of 5000 digits": b'{"packs":' + b"9" * 5000 + b"}",
}

OTHERS: dict[str, Lie] = {
    f"{what}: {said}": lambda liar, kind=kind, name=name, plain=plain: liar.seal_plain(kind, name, plain)  # type: ignore[misc] # defaults that keep the loop's values have no type to infer
    for what, (kind, name) in _OTHERS.items()
    for said, plain in _PAYLOADS.items()
}
OTHERS |= {
    f"{what}: a zstd bomb": lambda liar, kind=kind, name=name: liar.seal(  # type: ignore[misc] # defaults that keep the loop's values have no type to infer
        kind, name, zstandard.ZstdCompressor().compress(bytes(1 << 30))
    )
    for what, (kind, name) in _OTHERS.items()
}

OTHERS |= {
    "a condemned list of every pack there is": lambda liar: liar.seal_json(
        ObjectType.CONDEMNED, "condemned/00000001", {"packs": _packs_of(liar), "points": []}
    ),
    "a condemned list of paths": lambda liar: liar.seal_json(
        ObjectType.CONDEMNED, "condemned/00000001", {"packs": ["../../../precious"], "points": ["../../precious"]}
    ),
    "a sweep of paths": lambda liar: liar.seal_json(
        ObjectType.SWEEP, "sweeps/00000001", {"packs": ["../../../precious"], "points": ["../config/00000001"]}
    ),
    "a session whose point is a path": lambda liar: liar.seal_json(
        ObjectType.SESSION,
        "sessions/" + "0" * 32,
        {"kind": "write", "point": "../../precious", "started": "2026-01-01T00:00:00+00:00"},
    ),
    "a generation of nine digits": lambda liar: liar.seal_json(
        ObjectType.SWEEP, "sweeps/999999999", {"packs": [], "points": []}
    ),
    "a generation that is no number": lambda liar: liar.seal_json(
        ObjectType.CONDEMNED, "condemned/latest", {"packs": [], "points": []}
    ),
    "a sweep in a folder": lambda liar: liar.seal_json(
        ObjectType.SWEEP, "sweeps/00000001/00000001", {"packs": [], "points": []}
    ),
    "a mark of every pack's damage": lambda liar: [
        liar.seal_json(ObjectType.MARK, f"marks/damage-{pack}-{'0' * 16}", {"pack": pack, "slots": None, "what": ""})
        for pack in _packs_of(liar)
    ],
}

LIES = {**POINTS, **DISKS, **LEAVES, **PACKS, **RUNS, **OTHERS}


@pytest.mark.parametrize("lie", some(list(LIES), 10))
def test_a_lie_is_refused_and_harms_nobody_else(
    lie: str, fresh: Callable[[], World], tally: Tally, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    world = fresh()
    LIES[lie](Liar(world))
    with bounded():
        use(world)
    tally.count("sealed lies", 1)


def test_many_lies_at_once_harm_nobody_else(
    fresh: Callable[[], World], tally: Tally, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    world = fresh()
    kinds = [[lie for name, lie in kind.items() if "64 TiB of" not in name] for kind in (POINTS, DISKS, LEAVES, PACKS)]
    together = [lie for lies in kinds for lie in some(lies, 3)]
    for lie in together:
        lie(Liar(world))
    with bounded():
        use(world)
    tally.count("sealed lies, all at once", len(together))
