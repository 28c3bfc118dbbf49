"""`offhost repo stats` as people and programs see it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from offhost.chunking.workers import SpanWorkers
from offhost.cli.main import main
from offhost.errors import PackCorrupt
from support.repositories import PASSPHRASE, Memory, back_up, make, noise, opened

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two VMs that share a disk's content, the first of them backed up twice."""
    root = make(tmp_path_factory.mktemp("stats") / "repository")
    with opened(root) as repository, SpanWorkers(1) as workers:
        disk = Memory(noise(1, 2_000_000))
        back_up(repository, disk, workers, name="one")
        disk.content[:500_000] = noise(2, 500_000)
        back_up(repository, disk, workers, name="one")
        back_up(repository, Memory(noise(1, 2_000_000)), workers, name="two")
    return root


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `repo stats`; returns exit code, standard output and error."""
    monkeypatch.setenv("OFFHOST_PASSPHRASE", PASSPHRASE.text)

    def ended(root: Path, *options: str) -> tuple[int, str, str]:
        code = main(["--repo", str(root), "repo", "stats", *options])
        said = capsys.readouterr()
        return code, said.out, said.err

    return ended


def test_the_whole_is_told_in_lines(root: Path, run: Run) -> None:
    lines = run(root)[1].splitlines()
    assert lines[0].startswith("3 restore points of 2 VMs, 2026-01-02 to 2026-01-03; ")
    figures = {line.split("\t")[0].strip(): line.split("\t")[1:] for line in lines[1:]}
    assert figures["backed up"][0] == "5.7 MiB"
    assert figures["different"][2].endswith("times less by deduplication")
    assert {"stored", "content", "disk maps", "directories", "index runs", "points", "metadata"} <= figures.keys()


def test_vms_and_points_have_a_line_each(root: Path, run: Run) -> None:
    vms = [line.split("\t") for line in run(root, "--vms")[1].splitlines()]
    assert [(vm[0], vm[1]) for vm in vms] == [("one", "2"), ("two", "1")]
    points = [line.split("\t") for line in run(root, "--points")[1].splitlines()]
    assert [point[1] for point in points] == ["one", "one", "two"]
    assert points[1][6].endswith("KiB"), "half a megabyte is the second point's alone"
    assert points[0][6].endswith(" B"), "what the first one holds, the other VM holds too"


def test_growth_is_plain_lines_in_a_pipe(root: Path, run: Run) -> None:
    lines = [line.split("\t") for line in run(root, "--growth", "day")[1].splitlines()]
    assert [line[:2] for line in lines] == [["2026-01-02", "2"], ["2026-01-03", "1"]]


def test_the_names_of_the_json_are_promised(root: Path, run: Run) -> None:
    found = json.loads(run(root, "--json")[1])
    assert {
        "points", "vms", "chunks", "packs", "size_bytes", "plain_bytes", "unique_bytes", "stored_bytes",
        "deduplication", "compression", "saving", "metadata_bytes", "metadata_share", "storage", "collectable",
        "missing_chunks", "unreadable", "by_vm", "by_point", "growth",
    } == found.keys()  # fmt: skip
    assert {"vm", "vm_id", "points", "oldest", "newest", "size_bytes", "plain_bytes", "frees_bytes"} == found["by_vm"][
        0
    ].keys()
    assert {
        "point", "vm", "vm_id", "time", "kind", "size_bytes", "plain_bytes", "stored_bytes", "frees_bytes",
    } == found["by_point"][0].keys()  # fmt: skip
    assert sum(found["storage"].values()) == found["stored_bytes"]
    assert found["collectable"] == {"packs": 0, "bytes": 0, "packs_to_rewrite": 0, "bytes_by_rewriting": 0}
    assert found["growth"]["by"] == "month"


def test_an_empty_repository_says_so(tmp_path: Path, run: Run) -> None:
    assert run(make(tmp_path / "repository"))[1].startswith("0 restore points of 0 VMs; 0 chunks in 0 packs")


def test_damage_is_a_warning_and_exit_code_3(root: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("offhost.repository.statistics.ownership.leaves_of_page", _damaged)
    code, _, errors = run(root)
    assert code == 3
    assert "warning: one, disk disk0: a list page" in errors


def _damaged(_page: bytes) -> list[bytes]:
    raise PackCorrupt("a list page that is none")
