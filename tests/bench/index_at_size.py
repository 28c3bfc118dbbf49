"""`make bench-index`: what an index of 16 million chunks costs to open, to ask and to add to.

Owns: making such a repository without its chunks (empty packs, real runs), and the measures. Each measure is taken in a
process of its own, from outside the index's memory: RssAnon of /proc/self/status, which leaves out mapped files.
"""

import argparse
import contextlib
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

import numpy as np

from offhost.backend.local import LocalBackend
from offhost.clock import SystemClock
from offhost.ids import ChunkId
from offhost.repository.chunks.consolidation import consolidate_runs
from offhost.repository.chunks.index import Index
from offhost.repository.chunks.packs import ENTRY, Entries, pack_object
from offhost.repository.chunks.rows import as_ids
from offhost.repository.chunks.runs import Run, put_run
from offhost.repository.chunks.store import ChunkStore
from offhost.repository.keys.keyring import KEY_BYTES, Keyring
from offhost.repository.objects.graves import Graveyard
from offhost.repository.objects.marks import Marks

MIB = 1 << 20
PACK_CHUNKS = 1000
RUN_PACKS = 125
BATCH = 600
FOLDERS = ["index", "condemned", "sweeps", "marks"]
BUILDING, COLD = "building the local copy", "files not in the page cache"
ADDED = 200_000


def keyring() -> Keyring:
    """The same each time: an index's local copy is bound to it."""
    return Keyring(bytes(16), b"\x01" * KEY_BYTES, {1: b"\x02" * KEY_BYTES})


def ids_of_run(number: int) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    """The ids of one run, which are the same each time, and as random as hashes."""
    raw = np.random.default_rng(number).bytes(32 * RUN_PACKS * PACK_CHUNKS)
    return np.frombuffer(raw, np.uint8).reshape(-1, 32)


def entries_of(ids: np.ndarray[tuple[int, int], np.dtype[np.uint8]]) -> Entries:
    """Full packs of chunks of 61 KiB that compress by half."""
    entries = np.zeros(len(ids), ENTRY)
    entries["id"] = ids.view("V32").reshape(-1)
    entries["pack"] = np.arange(len(ids)) // PACK_CHUNKS
    entries["slot"] = np.arange(len(ids)) % PACK_CHUNKS
    entries["stored"] = np.random.default_rng(1).integers(20_000, 40_000, len(ids))
    entries["offset"] = 44 + entries["slot"].astype(np.uint32) * 40_000
    entries["plain"] = np.random.default_rng(2).integers(16_384, 262_144, len(ids))
    entries["kind"], entries["codec"] = 1, 1
    return entries


def make(root: Path, entries: int) -> None:
    """A repository's packs, empty, and the runs that say what they hold."""
    backend = LocalBackend.create(root, [*FOLDERS, *(f"packs/{number:02x}" for number in range(256))])
    for number in range(-(-entries // (RUN_PACKS * PACK_CHUNKS))):
        packs = tuple(secrets.token_hex(32) for _ in range(RUN_PACKS))
        for pack in packs:
            (root / pack_object(pack)).touch()
        put_run(backend, keyring(), Run(packs, entries_of(ids_of_run(number))))


@dataclass(slots=True)
class Measured:
    """What one process saw. Times in seconds, memory in bytes."""

    times: dict[str, float] = field(default_factory=dict)
    anonymous_bytes: int = 0
    peak_bytes: int = 0
    before_bytes: int = 0

    @contextlib.contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Note how long it takes."""
        start = time.perf_counter()
        yield
        self.times[what] = time.perf_counter() - start


def anonymous_bytes() -> int:
    """This process's memory that is no file's."""
    found = re.search(r"^RssAnon:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(found[1]) << 10 if found else 0


@contextlib.contextmanager
def peak_watched(measured: Measured) -> Iterator[None]:
    """Watch the most anonymous memory, at every hundredth of a second."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            measured.peak_bytes = max(measured.peak_bytes, anonymous_bytes())

    measured.before_bytes = anonymous_bytes()
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
        measured.anonymous_bytes = anonymous_bytes()


def opened(root: Path, cache: Path) -> Index:
    """An index as a process begins with it."""
    cache.mkdir(exist_ok=True)
    index = Index(LocalBackend(root), keyring(), cache)
    index.refresh(frozenset(), frozenset())
    return index


def chosen(seed: int, hits: int) -> list[ChunkId]:
    """A batch to ask for, so many of which exist."""
    random = np.random.default_rng(secrets.randbits(64) + seed)
    known = ids_of_run(0)[random.integers(0, RUN_PACKS * PACK_CHUNKS, hits)]
    unknown = np.frombuffer(random.bytes(32 * (BATCH - hits)), np.uint8).reshape(-1, 32)
    batch = np.concatenate([known, unknown])[random.permutation(BATCH)]
    return [ChunkId(each.tobytes()) for each in batch]


def measure_building(measured: Measured, root: Path, cache: Path) -> None:
    """A machine's first look at a repository that others have filled."""
    with peak_watched(measured), measured.timed("reading all runs"):
        opened(root, cache)


def measure_opening(measured: Measured, root: Path, cache: Path) -> None:
    """Opening, then batches: the first touches each bucket, and checks it, for the first time."""
    batches = {what: [chosen(at, hits) for at in range(20)] for what, hits in _BATCHES.items()}
    with peak_watched(measured):
        with measured.timed("opening"):
            index = opened(root, cache)
        for what, some in batches.items():
            with measured.timed(f"{BATCH} {what}, first"):
                index.look_up(some[0])
            times: list[float] = []
            work: list[float] = []
            for batch in some[1:]:
                start, begun = time.perf_counter(), time.thread_time()
                index.look_up(batch)
                times.append(time.perf_counter() - start)
                work.append(time.thread_time() - begun)
            measured.times[f"{BATCH} {what}, each (median)"] = median(times)
            measured.times[f"{BATCH} {what}, each, processor time"] = median(work)
            with measured.timed(f"{BATCH} {what}, again"):
                index.look_up(some[-1])


_BATCHES = {"misses": 0, "hits": BATCH, "mixed": BATCH // 2}


def measure_adding(measured: Measured, root: Path, cache: Path) -> None:
    """New packs of this process, and their way into the local copy."""
    index = opened(root, cache)
    packs: list[tuple[str, Entries]] = []
    for at in range(ADDED // PACK_CHUNKS):
        name = secrets.token_hex(32)
        ids = np.random.default_rng(1_000_000 + at).bytes(32 * PACK_CHUNKS)
        packs.append((name, entries_of(np.frombuffer(ids, np.uint8).reshape(-1, 32))))
    with peak_watched(measured), measured.timed(f"adding and merging {ADDED} entries"):
        for name, entries in packs:
            index.add(name, entries)
            index.tidy()


def measure_counting(measured: Measured, root: Path, cache: Path) -> None:
    """What a collector and `repo stats` ask."""
    index = opened(root, cache)
    with peak_watched(measured):
        with measured.timed("census"):
            census = index.census()
        batch = as_ids([ChunkId(each.tobytes()) for each in ids_of_run(0)[:100_000]])
        with measured.timed("census: every copy of 100000 chunks"):
            _, rows = census.rows(batch)
            census.pack_of(rows), census.stored(rows)
        with measured.timed("totals"):
            index.totals()


def measure_consolidating(measured: Measured, root: Path, cache: Path) -> None:
    """What a collector does when it finds all runs to be of one size."""
    backend = LocalBackend(root)
    graveyard, marks = Graveyard(backend, keyring()), Marks(backend, keyring(), SystemClock())
    store = ChunkStore(backend, keyring(), graveyard=graveyard, marks=marks, cache=cache)
    with peak_watched(measured), measured.timed("all runs into shards"):
        consolidate_runs(store)


MEASURES: dict[str, Callable[[Measured, Path, Path], None]] = {
    BUILDING: measure_building,
    "files in the page cache": measure_opening,
    COLD: measure_opening,
    "new entries": measure_adding,
    "counting": measure_counting,
    "consolidating": measure_consolidating,
}


def in_page_cache(cache: Path, *, wanted: bool) -> None:
    """Make the kernel hold the local copy in memory, or drop it."""
    for path in cache.iterdir():
        with path.open("rb", buffering=0) as file:
            os.fsync(file.fileno())
            if wanted:
                while file.read(MIB):
                    pass
            else:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def in_own_process(name: str, work: Path) -> Measured:
    """Take one measure."""
    command = [sys.executable, "-m", "bench.index_at_size", "--work", str(work), "--measure", name]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return Measured(**json.loads(answer))


def main() -> None:
    """Make the repository where it is missing, take all measures, print them."""
    parser = argparse.ArgumentParser(prog="make bench-index", description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="where the repository is made; some 2 GiB")
    parser.add_argument("--entries", type=int, default=16_000_000)
    parser.add_argument("--measure", choices=MEASURES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    root, cache = arguments.work / "repository", arguments.work / "cache"
    if arguments.measure:
        measured = Measured()
        MEASURES[arguments.measure](measured, root, cache)
        json.dump(asdict(measured), sys.stdout)
        return
    shutil.rmtree(arguments.work, ignore_errors=True)
    arguments.work.mkdir(parents=True)
    start = time.perf_counter()
    make(root, arguments.entries)
    print(f"{arguments.entries} entries made in {time.perf_counter() - start:.0f} s\n")
    print("| | | time | anonymous memory before, most, after |\n|---|---|---|---|")
    for name in MEASURES:
        if name != BUILDING:
            in_page_cache(cache, wanted=name != COLD)
        measured = in_own_process(name, arguments.work)
        memory = ", ".join(
            f"{each / MIB:.0f}" for each in (measured.before_bytes, measured.peak_bytes, measured.anonymous_bytes)
        )
        memory += " MiB"
        for what, seconds in measured.times.items():
            shown = f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.1f} ms"
            print(f"| {name} | {what} | {shown} | {memory} |", flush=True)
    size = sum(path.stat().st_size for path in cache.iterdir())
    print(f"\nlocal copy: {size / MIB:.0f} MiB in {len(list(cache.iterdir()))} files")
    shutil.rmtree(arguments.work)


if __name__ == "__main__":
    main()
