"""What an incremental of a large disk costs in metadata: leaves, list pages, directories, index runs, the point.

Owns: disks that exist as maps alone, cut as `page-1` cuts and changed in pieces of 64 KiB; counting what a day of them
adds. All metadata is made, sealed and stored as in a backup; of the content only the lengths are real, and what packs
of it would have for directories is reckoned from them.

    make bench-metadata        the size that is promised; DAYS=n
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from offhost.chunking.pages import MAX_PAGES, MIN_PAGES, PAGE_BYTES
from offhost.chunking.spans import SPAN_BYTES, SpanMap
from offhost.ids import DiskKey, SessionId, image_id
from offhost.repository.chunks.packs import DIRECTORY, ENTRY, HEADER_BYTES, PACK_LIMIT_BYTES, TAG_BYTES, Kind
from offhost.repository.points.diskmap import DiskMap
from offhost.repository.points.manifest import Manifest, PointDisk
from offhost.repository.repository import Repository
from offhost.repository.session import WriteSession
from support.repositories import make, opened

SPAN_PAGES = SPAN_BYTES // PAGE_BYTES
CHANGE_PAGES = 16
CHANGED_SHARE = 0.01
LIMIT = 0.015
VM = "large"

Pages = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Day:
    """What one incremental stored, in bytes. `content` is the plain size of new chunks."""

    content: int
    leaves_and_pages: int
    directories: int
    runs: int
    point: int

    @property
    def share(self) -> float:
        """Metadata, as a share of the new chunks' bytes."""
        return (self.leaves_and_pages + self.directories + self.runs + self.point) / self.content


class LargeDisk:
    """A disk as cuts and ids. `data_share` of each span's 1 MiB blocks hold data, the others are holes."""

    def __init__(self, spans: int, data_share: float, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._blocks = [self._random.random(SPAN_BYTES >> 20) < data_share for _ in range(spans)]
        self.maps = [self._cut(self._data_runs(blocks)) for blocks in self._blocks]
        self.size_bytes = spans * SPAN_BYTES

    @staticmethod
    def _data_runs(blocks: NDArray[np.bool_]) -> list[tuple[int, int]]:
        edges = np.flatnonzero(np.diff(blocks, prepend=False, append=False)) * ((1 << 20) // PAGE_BYTES)
        return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))

    def _cut(self, runs: list[tuple[int, int]]) -> SpanMap:
        starts, lengths = [], []
        for at, stop in runs:
            pieces = list(self._pieces(stop - at))
            starts += [at + before for before in accumulate(pieces[:-1], initial=0)]
            lengths += pieces
        return self._with_ids(np.array(starts, np.int64), np.array(lengths, np.int64))

    def _pieces(self, pages: int) -> Iterator[int]:
        """Lengths of chunks, in pages, as `page-1` cuts what it has not seen before."""
        while pages > 0:
            length = min(MIN_PAGES - 1 + int(self._random.geometric(1 / 12)), MAX_PAGES, pages)
            yield length
            pages -= length

    def _with_ids(self, starts: Pages, lengths: Pages) -> SpanMap:
        ids = np.frombuffer(self._random.bytes(32 * len(starts)), np.uint8).reshape(-1, 32)
        return SpanMap((starts * PAGE_BYTES).astype(np.uint32), (lengths * PAGE_BYTES).astype(np.uint32), ids)

    def change(self) -> tuple[dict[int, SpanMap], NDArray[np.uint32]]:
        """Write anew 1 % of the data in random aligned pieces: the maps of spans that changed, new chunks' lengths."""
        data = np.array([len(np.flatnonzero(blocks)) << 20 for blocks in self._blocks])
        pieces = round(CHANGED_SHARE * data.sum() / (CHANGE_PAGES * PAGE_BYTES))
        spans = self._random.choice(len(data), pieces, p=data / data.sum())
        changed, lengths = {}, [np.zeros(0, np.uint32)]
        for span, count in zip(*np.unique(spans, return_counts=True), strict=True):
            for _ in range(count):
                self.maps[span], new = self._rewritten(self.maps[span], self._blocks[span])
                lengths.append(new)
            changed[int(span)] = self.maps[span]
        return changed, np.concatenate(lengths)

    def _rewritten(self, before: SpanMap, blocks: NDArray[np.bool_]) -> tuple[SpanMap, NDArray[np.uint32]]:
        """One piece rewritten: cut anew from the chunk it begins in to the first old cut behind it."""
        starts, lengths = (column.astype(np.int64) // PAGE_BYTES for column in (before.starts, before.lengths))
        block = self._random.choice(np.flatnonzero(blocks))
        at = int(block) * 256 + CHANGE_PAGES * int(self._random.integers(256 // CHANGE_PAGES))
        first = int(np.searchsorted(starts, at, "right")) - 1
        last = int(np.searchsorted(starts + lengths, at + CHANGE_PAGES))
        start, stop = int(starts[first]), int(starts[last] + lengths[last])
        pieces = np.array(list(self._pieces(stop - start)), np.int64)
        fresh = self._with_ids(start + np.cumsum(pieces) - pieces, pieces)
        keep = np.r_[0:first, last + 1 : len(before)]
        order = np.argsort(np.concatenate([before.starts[keep], fresh.starts]), kind="stable")
        columns = (
            np.concatenate([getattr(before, name)[keep], getattr(fresh, name)])[order]
            for name in ("starts", "lengths", "ids")
        )
        return SpanMap(*columns), fresh.lengths


def days(root: Path, *, spans: int, data_share: float, count: int) -> Iterator[Day]:
    """A first full and `count` incrementals of such a disk in a new repository; what each incremental cost."""
    disk = LargeDisk(spans, data_share, seed=1)
    with opened(make(root)) as repository:
        _back_up(repository, disk, dict(enumerate(disk.maps)))
        for _ in range(count):
            before = _sizes(repository)
            changed, lengths = disk.change()
            _pretend_packs(repository, lengths)
            _back_up(repository, disk, changed)
            after = {name: size for name, size in _sizes(repository).items() if name not in before}
            yield Day(
                content=int(lengths.sum(dtype=np.uint64)),
                leaves_and_pages=_below(after, "packs/"),
                directories=_directories_bytes(lengths),
                runs=_below(after, "index/"),
                point=_below(after, "points/"),
            )


def _back_up(repository: Repository, disk: LargeDisk, changed: dict[int, SpanMap]) -> None:
    with repository.session(image_id(VM)) as (session, base):
        known = base.map(base.manifest.disks[0]) if base else None
        point = _point(session, disk, known, changed)
        sequence = base.manifest.sequence + 1 if base else 1
        previous = repository.points.predecessor(base.manifest) if base else None
        session.commit(replace(point, sequence=sequence, predecessor=previous))


def _point(session: WriteSession, disk: LargeDisk, base: DiskMap | None, changed: dict[int, SpanMap]) -> Manifest:
    writer = session.map_writer(disk.size_bytes, "page-1", base)
    for span in range(len(writer)):
        if span in changed:
            writer.set(span, changed[span])
        elif base:
            writer.keep(span)
    at = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=1)
    disks = (PointDisk(DiskKey("disk0"), "disk", writer.finish()),)
    return Manifest(SessionId(session.id), session.vm, VM, 1, None, at, "incremental", "crash", disks)


def _pretend_packs(repository: Repository, lengths: NDArray[np.uint32]) -> None:
    """Have the next index run cover packs that hold chunks of these lengths, as if they had been put."""
    random = np.random.default_rng(len(lengths))
    per_pack = max(1, PACK_LIMIT_BYTES // int(lengths.mean()))
    packs = {}
    for at in range(0, len(lengths), per_pack):
        some = lengths[at : at + per_pack]
        entries = np.zeros(len(some), ENTRY)
        entries["id"] = np.frombuffer(random.bytes(32 * len(some)), "V32")
        entries["slot"], entries["plain"] = np.arange(len(some)), some
        entries["stored"] = some // 2 + random.integers(0, 4096, len(some))  # compressed, so no two alike
        entries["offset"] = HEADER_BYTES + np.cumsum(entries["stored"]) - entries["stored"]
        entries["kind"], entries["codec"] = Kind.CONTENT, 1
        packs[random.bytes(32).hex()] = entries
    repository.store.packer.give_back_unindexed(packs)


def _directories_bytes(lengths: NDArray[np.uint32]) -> int:
    packs = -(-int(lengths.sum(dtype=np.uint64)) // PACK_LIMIT_BYTES)
    return len(lengths) * DIRECTORY.itemsize + packs * (HEADER_BYTES + TAG_BYTES + 4)


def _sizes(repository: Repository) -> dict[str, int]:
    return {
        item.name: item.size_bytes
        for folder in ("packs/", "index/", "points/")
        for item in repository.backend.list(folder)
    }


def _below(sizes: dict[str, int], folder: str) -> int:
    return sum(size for name, size in sizes.items() if name.startswith(folder))


SCENES = (
    # what, spans, share that holds data, days: two disks of the promised size, and a long history of a smaller one
    ("2 TiB, 10 % of it data", 65536, 0.1, 3),
    ("2 TiB, 1 % of it data", 65536, 0.01, 3),
    ("64 GiB, all of it data", 2048, 1.0, 40),
)


def main() -> None:
    """Print a line for each day; exit with 1 when one of them is beyond the limit."""
    parser = argparse.ArgumentParser(prog="make bench-metadata", description=__doc__)
    parser.add_argument("--days", type=int, help="incrementals of each disk")
    arguments = parser.parse_args()
    worst = 0.0
    for what, spans, data_share, count in SCENES:
        with tempfile.TemporaryDirectory(prefix="bench-metadata-") as folder:
            scene = days(Path(folder) / "repository", spans=spans, data_share=data_share, count=arguments.days or count)
            for number, day in enumerate(scene, 1):
                worst = max(worst, day.share)
                parts = f"leaves and pages {day.leaves_and_pages}, directories {day.directories}, runs {day.runs}"
                print(f"{what}, day {number}: {day.content} new, {day.share:.2%} metadata ({parts})", flush=True)
    print(f"at worst {worst:.2%} of the new chunks' bytes, at most {LIMIT:.1%} promised")
    sys.exit(worst > LIMIT)


if __name__ == "__main__":
    main()
