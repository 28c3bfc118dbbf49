"""A repository that cannot be written to is listed, measured, verified and restored from; also one on a full disk."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from offhost.chunking.workers import SpanWorkers
from offhost.cli.main import main
from offhost.repository.chunks.packs import Kind
from support.damage import chunks_of, place_of, rot
from support.repositories import PASSPHRASE, Memory, back_up, make, noise, opened

CONTENT = noise(1, 400_000) + bytes(100_000) + noise(2, 50_000)
PROGRAM = "import sys; from offhost.cli.main import main; sys.exit(main())"
BOUND_BY_MODES = "-dac_override,-dac_read_search"


@pytest.fixture
def written(tmp_path: Path) -> Path:
    root = make(tmp_path / "repository")
    with SpanWorkers(2) as workers, opened(root) as repository:
        back_up(repository, Memory(CONTENT), workers, name="web")
    return root


@contextmanager
def mounted(*arguments: str, at: Path) -> Iterator[Path]:
    """Something mounted at a new directory; skips where that is not possible."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    at.mkdir()
    if subprocess.run(["mount", *arguments, str(at)], check=False, capture_output=True).returncode:
        pytest.skip("this container may not mount")
    try:
        yield at
    finally:
        subprocess.run(["umount", "--lazy", str(at)], check=True)


@pytest.fixture(params=["bind", "squashfs"])
def read_only(written: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """The repository on a mount that refuses every write."""
    if request.param == "squashfs":
        if shutil.which("mksquashfs") is None:
            pytest.skip("there is no mksquashfs")
        image = tmp_path / "image"
        subprocess.run(["mksquashfs", str(written), str(image), "-quiet"], check=True)
        with mounted("-o", "loop,ro", str(image), at=tmp_path / "medium") as medium:
            yield medium
        return
    with mounted("--bind", str(written), at=tmp_path / "medium") as medium:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(medium)], check=True)
        yield medium


@pytest.fixture(params=["cache", "nowhere to keep a cache"])
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """The passphrase, and a place for local copies of the index, or none."""
    place = tmp_path / "cache" if request.param == "cache" else Path("/proc/nowhere")
    monkeypatch.setenv("OFFHOST_PASSPHRASE", PASSPHRASE.text)
    monkeypatch.setenv("XDG_CACHE_HOME", str(place))


def commands(root: Path, restored: Path) -> list[list[str]]:
    on = ["--repo", str(root)]
    return [
        [*on, "points", "list"],
        [*on, "repo", "stats"],
        [*on, "repo", "verify"],
        [*on, "repo", "verify", "--data"],
        [*on, "repo", "verify", "--point", "web@latest"],
        [*on, "restore", "disk", "web@latest", "--to", str(restored)],
    ]


@pytest.mark.root
def test_everything_that_reads_works_on_a_read_only_mount(read_only: Path, tmp_path: Path, environment: None) -> None:
    for command in commands(read_only, tmp_path / "restored"):
        assert main(command) == 0, command
    assert (tmp_path / "restored").read_bytes() == CONTENT


@pytest.mark.root
def test_damage_on_a_read_only_mount_is_named_all_the_same(
    written: Path,
    tmp_path: Path,
    environment: None,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with opened(written) as repository:
        (point,) = repository.points.all()
        rot(written, place_of(repository, chunks_of(repository, point, Kind.CONTENT)[0]))
    with mounted("--bind", str(written), at=tmp_path / "medium") as medium:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(medium)], check=True)
        assert main(["--repo", str(medium), "repo", "verify", "--data"]) == 1
    assert f"harms web, point {point.id[:12]}" in capsys.readouterr().err
    assert "could not be marked" in caplog.text


@pytest.mark.root
def test_everything_that_reads_works_on_a_full_disk(tmp_path: Path, environment: None) -> None:
    with mounted("-t", "tmpfs", "-o", "size=6m", "tmpfs", at=tmp_path / "small") as small:
        root = make(small / "repository")
        with SpanWorkers(2) as workers, opened(root) as repository:
            back_up(repository, Memory(CONTENT), workers, name="web")
        _fill(small / "filler")
        for command in commands(root, tmp_path / "restored"):
            assert main(command) == 0, command
    assert (tmp_path / "restored").read_bytes() == CONTENT


def _fill(path: Path) -> None:
    with suppress(OSError), path.open("wb", buffering=0) as filler:
        while True:
            filler.write(bytes(4096))


def test_whoever_may_only_read_the_files_can_restore(written: Path, tmp_path: Path) -> None:
    """Without a directory for the index either."""
    as_others = ["setpriv", f"--bounding-set={BOUND_BY_MODES}"] if os.geteuid() == 0 else []
    if as_others and shutil.which("setpriv") is None:
        pytest.skip("root is bound by no file's mode, and there is no setpriv to be less than root")
    for path in (written, *written.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    environment = os.environ | {"OFFHOST_PASSPHRASE": PASSPHRASE.text, "XDG_CACHE_HOME": "/proc/nowhere"}
    for command in commands(written, tmp_path / "restored"):
        subprocess.run([*as_others, sys.executable, "-c", PROGRAM, *command], env=environment, check=True)
    assert (tmp_path / "restored").read_bytes() == CONTENT
    put = subprocess.run(
        [*as_others, "touch", str(written / "marks" / "x")], check=False, stderr=subprocess.DEVNULL
    ).returncode
    assert put != 0, "the files' modes must bind for this test to say anything"
