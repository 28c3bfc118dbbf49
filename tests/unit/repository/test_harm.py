"""The points that verification names as harmed are those that do not restore, no more and no fewer."""

import random
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offhost.chunking.spans import SPAN_BYTES
from offhost.chunking.workers import SpanWorkers
from offhost.errors import IntegrityError
from offhost.extents import Extent, ExtentMap
from offhost.ids import ChunkId, DiskKey, image_id
from offhost.repository.chunks.packs import Kind
from offhost.repository.points.diskmap import PAGE_SPANS, root_digest
from offhost.repository.points.manifest import DISK_LIMIT_BYTES, DiskMapRef, Manifest, PointDisk
from offhost.repository.repository import Repository
from offhost.repository.verification.harm import HarmWalk
from offhost.repository.verification.verify import verify
from support.damage import flip
from support.repositories import Memory, back_up, content, make, noise, opened, point_of

SIZE = 1 << 20


def with_history(root: Path, workers: SpanWorkers, rng: random.Random) -> list[Manifest]:
    """Two VMs that share content, backed up by their changes a few times."""
    points = []
    with opened(root) as repository:
        for name in ("one", "two"):
            disk = Memory(noise(rng.randrange(2), SIZE))
            points.append(back_up(repository, disk, workers, name=name))
            for _ in range(rng.randrange(5)):
                start = rng.randrange(SIZE - 100_000)
                end = start + rng.randrange(1, 100_000)
                disk.content[start:end] = noise(rng.randrange(3), end - start)
                areas = ExtentMap([Extent(start, end)])
                points.append(back_up(repository, disk, workers, name=name, areas=areas))
    return points


def restores(repository: Repository, point: Manifest) -> bool:
    with suppress(IntegrityError):
        return len(content(repository, point)) == SIZE
    return False


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1 << 32), flips=st.integers(1, 4), data=st.booleans())
def test_harmed_is_what_does_not_restore(workers: SpanWorkers, seed: int, flips: int, data: bool) -> None:
    rng = random.Random(seed)
    with TemporaryDirectory() as place:
        root = make(Path(place) / "repository")
        points = with_history(root, workers, rng)
        packs = [path for path in (root / "packs").rglob("*") if path.is_file()]
        for _ in range(flips):
            pack = rng.choice(packs)
            flip(pack, rng.randrange(pack.stat().st_size * 9 // 10))  # the directory, at the end, has a test of its own
        with opened(root) as repository:
            bad = {point.id[:12] for point in points if not restores(repository, point)}
        with opened(root) as repository:
            report = verify(repository, data=data, stop=threading.Event())
        named = {harm.split("point ")[1][:12] for damage in report.damage for harm in damage.harms}
        if data:
            assert named == bad
        else:
            assert named <= bad, "content is not read, but nothing is named that restores"


def test_damage_below_a_patch_harms_what_is_patched_on_it(root: Path, workers: SpanWorkers) -> None:
    disk = Memory(noise(1, 3 << 20))
    with opened(root) as repository:
        points = [back_up(repository, disk, workers)]
        for generation in range(3):
            disk.content[0:4096] = noise(generation, 4096)
            points.append(back_up(repository, disk, workers, areas=ExtentMap([Extent(0, 4096)])))
        map_ = repository.restore_point(points[-1]).map(points[-1].disks[0])
        last = list(map_.span(0))[-1]
        (place,) = repository.store.index.look_up([last.id])
        assert place is not None
    flip(root / "packs" / place.pack[:2] / place.pack, place.offset + 20)
    with opened(root) as repository:
        (damage,) = verify(repository, data=True, stop=threading.Event()).damage
    assert len(damage.harms) == len(points)


@pytest.mark.slow
def test_a_disk_of_64_tib_that_names_one_leaf_everywhere_is_looked_at_once(
    repository: Repository, workers: SpanWorkers
) -> None:
    """As somebody makes it up who has the key: two million spans, two thousand list pages, each the same."""
    point = back_up(repository, Memory(noise(1, SIZE)), workers)
    slot = repository.restore_point(point).map(point.disks[0]).slot(0)
    with repository.session(image_id("vm")) as (session, _):
        page = session.put_metadata(Kind.PAGE, slot * PAGE_SPANS)
        root_ = root_digest(
            DISK_LIMIT_BYTES, "pages", [slot] * (DISK_LIMIT_BYTES // SPAN_BYTES), repository.store.metadata_id_key
        )
        pages = (page,) * (DISK_LIMIT_BYTES // SPAN_BYTES // PAGE_SPANS)
        ref = DiskMapRef(DISK_LIMIT_BYTES, SIZE, "pages", pages, root_)
        disks = (PointDisk(DiskKey("disk0"), "disk", ref),)
        session.commit(point_of(session, "vm", sequence=2, disks=disks))
    judged: list[int] = []

    def judge(chunks: Sequence[ChunkId]) -> list[str | None]:
        judged.append(len(chunks))
        return [None] * len(chunks)

    repository.refresh()
    started = time.monotonic()
    walk = HarmWalk(repository, judge, threading.Event())
    assert list(walk.of(repository.points.all())) == []
    assert sum(judged) < 1000
    assert time.monotonic() - started < 20
