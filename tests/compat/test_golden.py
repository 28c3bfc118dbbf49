"""Repositories of every released format open, verify, read back, and take new points."""

import threading
from pathlib import Path

import pytest

from compat.golden import HERE, VM, generations, unpack
from offhost.chunking.workers import SpanWorkers
from offhost.repository.verify import verify
from support.repositories import Memory, back_up, content, opened

ARCHIVES = sorted(HERE.glob("*.tar.gz"))


def test_there_is_a_golden_repository() -> None:
    assert [archive.name for archive in ARCHIVES] == ["format-1.tar.gz"]


@pytest.mark.parametrize("archive", ARCHIVES, ids=lambda archive: archive.name)
def test_a_golden_repository_reads_back_and_takes_a_new_point(archive: Path, tmp_path: Path) -> None:
    root = unpack(archive, tmp_path)
    with opened(root) as repository, SpanWorkers(1) as workers:
        assert [content(repository, point) for point in repository.points.all()] == generations()
        report = verify(repository, data=True, progress=lambda *_: None, stop=threading.Event())
        assert report.damage == []
        again = back_up(repository, Memory(generations()[-1]), workers, name=VM)
        assert again.disks[0].map.root == repository.points.of(again.vm_id)[-2].disks[0].map.root, (
            "the same content must be cut and mapped as it was"
        )
