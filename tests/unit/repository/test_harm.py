"""The points that verification names as harmed are those that do not restore, no more and no fewer."""

import random
import threading
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offhost.chunking.workers import SpanWorkers
from offhost.errors import IntegrityError
from offhost.extents import Extent, ExtentMap
from offhost.repository.points.manifest import Manifest
from offhost.repository.repository import Repository
from offhost.repository.verification.verify import verify
from support.damage import flip
from support.repositories import Memory, back_up, content, make, noise, opened

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
@settings(max_examples=25, deadline=None)
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
