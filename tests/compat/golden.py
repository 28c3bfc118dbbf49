"""Golden repositories: made once with the offhost of their day, and kept for ever.

`PYTHONPATH=tests python -m compat.golden NAME` makes `tests/compat/NAME.tar.gz` with the offhost at hand: run it when a
format is released, and never again for that format. What is in a golden repository is written down here.
"""

import io
import sys
import tarfile
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from unittest.mock import patch

from offhost.backup.copy import DiskCopy, map_of
from offhost.chunking.compress import Codec, Compression
from offhost.chunking.spans import SPAN_BYTES, Chunking, store_stream
from offhost.chunking.workers import SpanWorkers
from offhost.extents import Extent, ExtentMap
from offhost.ids import DiskKey, image_id
from offhost.repository.access import Access
from offhost.repository.chunks import consolidation
from offhost.repository.collection.collect import Collector
from offhost.repository.keys.keyfile import KeyFile
from offhost.repository.keys.recoverykey import RecoveryKey
from offhost.repository.points.manifest import Manifest, PointDisk, PointFile
from offhost.repository.repository import Repository
from offhost.repository.verification.verify import verify
from support.repositories import CHEAP, PASSPHRASE, Memory, back_up, chunking_of, make, noise, opened, point_of

HERE = Path(__file__).parent
VM = "golden"
SECOND_VM = "golden-with-files"
KEY_FILE = KeyFile(bytes(range(32)))
RECOVERY_KEY = RecoveryKey(bytes(range(100, 120)))
VMX = b"".join(b'scsi0:%d.fileName = "disk-%d.vmdk"\n' % (n, n) for n in range(2000))
GRAIN = 65536
LARGE_DAYS = 18

Content = Callable[[], bytes]
"""A disk's content, made when it is asked for: they are large."""


@dataclass(frozen=True, slots=True)
class Golden:
    """One archive: how it is made, and by VM the first disk's content at each point that counts, the oldest first."""

    build: Callable[[Path], None]
    contents: Mapping[str, Sequence[Content]]


def generations() -> list[bytes]:
    """The disk at each of its points, the oldest first: content, a hole, a short last page, then changes."""
    first = bytearray(noise(1, 400_000) + bytes(200_000) + b"offhost " * 20_000 + noise(2, 1234))
    second = bytearray(first)
    second[100_000:150_000] = noise(3, 50_000)
    third = bytearray(second)
    third[450_000:460_000] = noise(4, 10_000)
    return [bytes(disk) for disk in (first, second, third)]


def large_generation(day: int) -> bytes:
    """A disk of two spans, mostly hole, that changes in both on each of `LARGE_DAYS`, for longer than patches go on."""
    disk = bytearray(SPAN_BYTES + 1_000_777)
    disk[4096:800_000] = noise(11, 795_904)
    disk[-500_000:] = b"a line of text that compresses\n" * 16_129 + b"x"
    for earlier in range(day):
        disk[20_000 * earlier + 8192 : 20_000 * earlier + 9000] = noise(20 + earlier, 808)
        disk[-1 - earlier] = earlier + 1
    return bytes(disk)


def _changed(before: bytes, after: bytes) -> ExtentMap:
    return ExtentMap(
        Extent(at, min(at + GRAIN, len(after)))
        for at in range(0, len(after), GRAIN)
        if before[at : at + GRAIN] != after[at : at + GRAIN]
    )


def build(root: Path) -> None:
    """Make the repository: the first point in full, the others by their changes."""
    make(root)
    disks = generations()
    with opened(root) as repository, SpanWorkers(1) as workers:
        back_up(repository, Memory(disks[0]), workers, name=VM)
        for before, after in pairwise(disks):
            back_up(repository, Memory(after), workers, name=VM, areas=_changed(before, after))


def build_full(root: Path) -> None:
    """Everything that format 1 has.

    Two VMs, one with a file; every codec; patches to their end and a keyframe after them; two key epochs and three
    kinds of wrappers; a collected generation with a sweep of packs and points, a forgotten point, a pin and one taken
    off, a mark of damage that was healed, marks of a verification, a session aborted; index runs in shards.
    """
    build(root)
    with opened(root) as repository, SpanWorkers(1) as workers:
        before = large_generation(0)
        points = [_back_up_with_file(repository, workers, before, None, Codec.RAW)]
        for day in range(1, LARGE_DAYS + 1):
            if day == LARGE_DAYS // 2:
                _begin_an_epoch(root)
            after, codec = large_generation(day), (Codec.LZ4, Codec.ZSTD)[day % 2]
            points.append(_back_up_with_file(repository, workers, after, _changed(before, after), codec))
            before = after
        _mark_and_collect(repository, workers, points)
        with repository.session(image_id("never finished")):
            pass
        verify(repository, data=True, stop=threading.Event())


def _begin_an_epoch(root: Path) -> None:
    access = Access.open(root, PASSPHRASE)
    access.add(KEY_FILE, label="the key file", cost=CHEAP)
    access.add(RECOVERY_KEY, label="on paper", cost=CHEAP)
    access.rotate(access.rotation([KEY_FILE, RECOVERY_KEY]), CHEAP)


def _back_up_with_file(
    repository: Repository, workers: SpanWorkers, disk: bytes, areas: ExtentMap | None, codec: Codec
) -> Manifest:
    chunking = Chunking(chunking_of(repository).cutter, repository.keyring.id_key, Compression(codec))
    with repository.session(image_id(SECOND_VM)) as (session, base):
        known = map_of(base, DiskKey("disk0"))
        copy = DiskCopy(Memory(disk), session, chunking, workers, base=known, areas=areas)
        copy.run(threading.Event())
        chunks = tuple(ref.id for ref in store_stream(memoryview(VMX), chunking, session).map)
        before = repository.points.predecessor(base.manifest) if base else None
        sequence = base.manifest.sequence + 1 if base else 1
        disks = (PointDisk(DiskKey("disk0"), "disk", copy.finish()),)
        point = point_of(session, SECOND_VM, sequence=sequence, disks=disks, predecessor=before)
        return session.commit(replace(point, files=(PointFile("golden.vmx", len(VMX), chunks),)))


def _mark_and_collect(repository: Repository, workers: SpanWorkers, points: Sequence[Manifest]) -> None:
    """Of the first VM's points the middle one is swept and the first one pinned; of the second's the third is swept,
    the fourth forgotten since, the fifth had a pin."""
    first, middle, last = repository.points.of(image_id(VM))
    marks = repository.marks
    pin = marks.pin(first.id, "the first of all")
    for point in (first, middle, points[2]):
        marks.forget(point.id, "no longer wanted")
    # all runs become one, in small shards
    with patch.multiple(consolidation, RUN_ENTRIES=32, like_sized=lambda sizes: list(range(len(sizes)))):
        Collector(repository, threading.Event()).run()
    marks.forget(points[3].id, "forgotten, and not yet collected")
    marks.unpin(marks.pin(points[4].id, "for a week"))
    assert [pin.id] == [each.id for each in marks.pins()]
    (place,) = {repository.store.index.look_up([last.disks[0].map.pages[0]])[0]}
    assert place
    marks.damage(place.pack, frozenset([place.slot]), "to be healed")
    repository.refresh(for_writing=True)
    back_up(repository, Memory(generations()[-1]), workers, name=VM)


_FIRST, _SECOND, _THIRD = (partial(lambda number: generations()[number], number) for number in range(3))
_LARGE = [partial(large_generation, day) for day in range(LARGE_DAYS + 1)]

GOLDEN = {
    "format-1": Golden(build, {VM: [_FIRST, _SECOND, _THIRD]}),
    "format-1-full": Golden(build_full, {VM: [_FIRST, _THIRD, _THIRD], SECOND_VM: _LARGE[:2] + _LARGE[4:]}),
}


def unpack(archive: Path, into: Path) -> Path:
    """A golden repository, laid out as it was."""
    with tarfile.open(archive) as tar:
        tar.extraction_filter = getattr(tarfile, "data_filter", None)  # not in Debian 12's Python 3.11.2
        tar.extractall(into)
    return into / "repository"


def main(name: str) -> None:
    """Make and pack one."""
    target = HERE / f"{name}.tar.gz"
    if target.exists():
        sys.exit(f"{target} exists: a golden repository is made once")
    packed = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder:
        GOLDEN[name].build(Path(folder) / "repository")
        with tarfile.open(fileobj=packed, mode="w:gz") as tar:
            tar.add(Path(folder) / "repository", "repository", filter=_anonymous)
    target.write_bytes(packed.getvalue())


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


if __name__ == "__main__":
    main(sys.argv[1])
