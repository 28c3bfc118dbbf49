"""Repositories of every released format open, verify, read back, and take new points."""

import re
import threading
from pathlib import Path

import pytest

from compat.golden import (
    GOLDEN,
    HERE,
    KEY_FILE,
    RECOVERY_KEY,
    SECOND_VM,
    VM,
    VMX,
    build_full,
    generations,
    unpack,
)
from compat.independent_reader import Repository as Reader
from compat.test_independent_reader import check_runs
from offhost.chunking.workers import SpanWorkers
from offhost.ids import image_id
from offhost.repository.chunks.runs import get_head
from offhost.repository.keys.credentials import Passphrase
from offhost.repository.repository import Repository
from offhost.repository.verification.verify import verify
from support.repositories import PASSPHRASE, Memory, back_up, content, opened

ARCHIVES = sorted(HERE.glob("*.tar.gz"), key=lambda path: path.name.partition(".")[0])


def test_there_are_golden_repositories() -> None:
    assert [archive.name.partition(".")[0] for archive in ARCHIVES] == sorted(GOLDEN)


@pytest.mark.parametrize(
    "archive",
    [pytest.param(path, marks=pytest.mark.slow if "-full." in path.name else ()) for path in ARCHIVES],
    ids=lambda path: path.name,
)
def test_a_golden_repository_reads_back_and_takes_a_new_point(archive: Path, tmp_path: Path) -> None:
    root, name = unpack(archive, tmp_path), archive.name.partition(".")[0]
    if name == "format-1-full":
        hold_to_everything(root)
    hold(root, name)


def hold(root: Path, name: str) -> None:
    """Hold a repository against what a golden one of this name has."""
    with opened(root) as repository, SpanWorkers(1) as workers:
        for vm, disks in GOLDEN[name].contents.items():
            points = repository.points.of(image_id(vm))
            assert len(points) == len(disks)
            for point, disk in zip(points, disks, strict=True):
                assert content(repository, point) == disk()
        report = verify(repository, data=True, progress=lambda *_: None, stop=threading.Event())
        assert report.damage == []
        again = back_up(repository, Memory(generations()[-1]), workers, name=VM)
        assert again.disks[0].map.root == repository.points.of(again.vm_id)[-2].disks[0].map.root, (
            "the same content must be cut and mapped as it was"
        )


OBJECTS = (
    r"config/00000002",
    r"condemned/00000001",
    r"sweeps/00000001",
    r"sessions/[0-9a-f]{32}",
    *(rf"marks/{kind}-.*" for kind in ("forgotten", "pin", "unpin", "damage", "verified")),
)


def hold_to_everything(root: Path) -> None:
    """That a full golden repository has what `build_full` says, and opens in every way."""
    files = {str(path.relative_to(root)): path for path in root.rglob("*") if path.is_file()}
    for form in OBJECTS:
        assert any(re.fullmatch(form, name) for name in files), form
    assert sum(name.startswith("keys/") for name in files) == 3
    epochs = {path.read_bytes()[10] for name, path in files.items() if name.startswith("points/")}
    assert epochs == {1, 2}
    for unlock in (PASSPHRASE, KEY_FILE, RECOVERY_KEY):
        with Repository.open(root, unlock) as repository:
            point = repository.points.of(image_id(SECOND_VM))[0]
            assert repository.restore_point(point).file(point.files[0]) == VMX
            runs = [item.name for item in repository.backend.list("index/")]
            assert {get_head(repository.backend, repository.keyring, run)[1].bits for run in runs} != {0}
        reader = Reader(root, unlock.kind, unlock.text if isinstance(unlock, Passphrase) else unlock.text())
        assert [point["id"] for point in reader.points()] == [point.id for point in repository.points.all()]
        assert check_runs(reader) == sum(map(len, reader.places.values()))
        stored = {(place.kind, place.codec) for places in reader.places.values() for place in places}
        assert {(1, 0), (1, 1), (1, 2)} <= stored
        last = reader.points()[-1]
        disk = bytearray(last["disks"][0]["size_bytes"])
        for offset, data in reader.disk(last["disks"][0]):
            disk[offset : offset + len(data)] = data
        assert disk == GOLDEN["format-1-full"].contents[SECOND_VM][-1]()


@pytest.mark.slow
def test_what_would_be_made_a_golden_repository_today_holds(tmp_path: Path) -> None:
    build_full(tmp_path / "repository")
    hold_to_everything(tmp_path / "repository")
    hold(tmp_path / "repository", "format-1-full")
