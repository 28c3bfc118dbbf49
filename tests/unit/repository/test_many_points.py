"""Many points of one VM: none costs more to open, or to build on, because there are others."""

from pathlib import Path

import pytest

from bench.many_points import VM, build
from offhost.backend.local import LocalBackend
from offhost.chunking.workers import SpanWorkers
from offhost.ids import image_id
from offhost.repository.points.leaves import MAX_DEPTH
from offhost.repository.repository import Repository
from support.repositories import Memory, back_up, noise, opened

POINTS = 3 * MAX_DEPTH


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The objects that are read, in order."""
    read: list[str] = []
    whole, part = LocalBackend.get, LocalBackend.get_range

    def get(backend: LocalBackend, name: str, *arguments: int) -> bytes:
        read.append(name)
        return whole(backend, name, *arguments)

    def get_range(backend: LocalBackend, name: str, *arguments: int) -> bytes:
        read.append(name)
        return part(backend, name, *arguments)

    monkeypatch.setattr(LocalBackend, "get", get)
    monkeypatch.setattr(LocalBackend, "get_range", get_range)
    return read


@pytest.mark.slow
def test_the_last_of_many_points_is_read_with_a_bounded_number_of_reads(tmp_path: Path, reads: list[str]) -> None:
    build(tmp_path / "repository", POINTS)
    costs = []
    for at in range(POINTS):
        with opened(tmp_path / "repository") as repository:
            point = repository.points.of(image_id(VM))[at]
            reads.clear()
            repository.restore_point(point).disk().read_into(0, memoryview(bytearray(4096)))
            costs.append(len(reads))
    most = 2 * (MAX_DEPTH + 1 + 2)  # header and content of each leaf's pack, of the list page's and of the chunk's
    assert max(costs) <= most, "however long the history"


def test_a_session_learns_of_older_points_once(repository: Repository, workers: SpanWorkers, reads: list[str]) -> None:
    disk = Memory(noise(1, 100_000))
    for _ in range(12):
        back_up(repository, disk, workers)
    reads.clear()
    with repository.session(image_id("vm")) as (_, base):
        assert base
        assert base.manifest.sequence == 12
        looked_at = {name for name in reads if name.startswith("points/")}
    assert len(looked_at) == 1, "only the newest is looked at"


def test_a_session_builds_on_the_last_point_that_counts_and_opens(root: Path, workers: SpanWorkers) -> None:
    with opened(root) as repository:
        points = [back_up(repository, Memory(noise(1, 100_000)), workers) for _ in range(4)]
        repository.marks.forget(points[3].id, "a test")
        assert _base(repository) == 3
        path = next((root / "points").rglob(points[2].id))
        path.chmod(0o600)
        path.write_bytes(path.read_bytes()[:-1] + b"!")
        assert _base(repository) == 2, "one that was seen whole and is damaged since"
    with opened(root) as repository:
        assert _base(repository) == 2, "one that was never seen whole"


def _base(repository: Repository) -> int:
    with repository.session(image_id("vm")) as (_, base):
        return base.manifest.sequence if base else 0
