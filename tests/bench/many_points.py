"""Whether the last of many restore points opens as fast as the first.

Owns: a disk of 64 MiB backed up a thousand times by its changes, and what it takes to open its points.

    make bench-points        a line for each of some points, and the ratio of the last to the first
"""

import argparse
import tempfile
import threading
import time
from pathlib import Path
from statistics import median

from offhost.backup.copy import DiskCopy, map_of
from offhost.chunking.workers import SpanWorkers
from offhost.extents import Extent, ExtentMap
from offhost.ids import DiskKey, image_id
from offhost.repository.points.manifest import PointDisk
from offhost.repository.repository import Repository
from support.repositories import Memory, chunking_of, make, noise, opened, point_of

VM = "often"
SIZE = 64 << 20
DATA = 8 << 20
CHANGED = 64 << 10
ROUNDS = 9


def build(root: Path, count: int) -> None:
    """A full, and incrementals of one changed piece each, up to `count` points in all."""
    disk = Memory(noise(1, DATA) + bytes(SIZE - DATA))
    make(root)
    with opened(root) as repository, SpanWorkers(1) as workers:
        for number in range(count):
            at = number * 5 * CHANGED % DATA
            disk.content[at : at + CHANGED] = noise(number, CHANGED)
            _back_up(repository, disk, workers, Extent(at, at + CHANGED) if number else None)


def _back_up(repository: Repository, disk: Memory, workers: SpanWorkers, changed: Extent | None) -> None:
    areas = ExtentMap([changed]) if changed else None
    with repository.session(image_id(VM), "off") as (session, base):
        copy = DiskCopy(
            disk, session, chunking_of(repository), workers, base=map_of(base, DiskKey("disk0")), areas=areas
        )  # fmt: skip
        copy.run(threading.Event())
        sequence = base.manifest.sequence + 1 if base else 1
        session.commit(
            point_of(session, VM, sequence=sequence, disks=(PointDisk(DiskKey("disk0"), "", copy.finish()),))
        )


def seconds_to_first_byte(root: Path, sequence: int, cache: Path) -> tuple[float, float]:
    """From nothing to the first block of a point's disk, and of that what came after the repository was open."""
    begun = time.perf_counter()
    with opened(root, cache) as repository:
        point = repository.points.of(image_id(VM))[sequence - 1]
        found = time.perf_counter()
        repository.restore_point(point).disk().read_into(0, memoryview(bytearray(4096)))
        done = time.perf_counter()
    return done - begun, done - found


def seconds_to_open_a_session(root: Path, cache: Path) -> float:
    """How long a backup waits for its base."""
    with opened(root, cache) as repository:
        begun = time.perf_counter()
        with repository.session(image_id(VM)):
            return time.perf_counter() - begun


def main() -> None:
    """Build, measure, print."""
    parser = argparse.ArgumentParser(prog="make bench-points", description=__doc__)
    parser.add_argument("--points", type=int, default=1000)
    count = parser.parse_args().points
    with tempfile.TemporaryDirectory(prefix="bench-points-") as folder:
        root, cache = Path(folder) / "repository", Path(folder) / "cache"
        build(root, count)
        looked_at = (1, 2, 17, count // 2, count)
        # in turns, so that what else runs on the machine slows all of them
        rounds = [[seconds_to_first_byte(root, each, cache) for each in looked_at] for _ in range(ROUNDS)]
        for each, taken in zip(looked_at, zip(*rounds, strict=True), strict=True):
            whole, reading = (median(times) for times in zip(*taken, strict=True))
            print(f"point {each} of {count}: {whole:.3f} s to its first block, {reading:.4f} s of it reading")
        print(f"last to first: {median(taken[-1][0] / taken[0][0] for taken in rounds):.2f}")
        sessions = median(seconds_to_open_a_session(root, cache) for _ in range(ROUNDS))
        print(f"opening a session: {sessions:.3f} s")


if __name__ == "__main__":
    main()
