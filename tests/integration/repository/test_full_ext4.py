"""A repository that fills a real file system: told, nothing is harmed; giving up a point makes room for the next."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from offhost.cli.main import main
from support.repositories import PASSPHRASE, make, noise

PLACE_BYTES = 48 << 20
IMAGE_BYTES = 12 << 20


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """An empty ext4 of `PLACE_BYTES` on a loop device, no block of which is kept back for root."""
    if os.geteuid() != 0:
        pytest.skip("mounting an ext4 needs root")
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("there is no mkfs.ext4")
    medium, place = tmp_path / "medium", tmp_path / "place"
    with medium.open("wb") as file:
        file.truncate(PLACE_BYTES)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(medium)], check=True)
    place.mkdir()
    if subprocess.run(["mount", "-o", "loop", str(medium), str(place)], check=False, capture_output=True).returncode:
        pytest.skip("this container may not mount")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)  # gives its loop device back
    left = subprocess.run(["losetup", "--associated", str(medium)], check=True, capture_output=True, text=True).stdout
    assert left == ""


@pytest.mark.root
def test_forgetting_a_point_makes_room_on_a_full_file_system(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OFFHOST_PASSPHRASE", PASSPHRASE.text)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = make(place / "repository")

    def offhost(*command: str) -> int:
        return main(["--repo", str(root), *command])

    def backed_up(name: str, content: bytes) -> int:
        image = tmp_path / f"{name}.raw"
        image.write_bytes(content)
        return offhost("backup", "image", str(image), "--name", name)

    def reads_back(name: str, content: bytes) -> None:
        restored = tmp_path / "restored"
        assert offhost("restore", "disk", f"{name}@latest", "--to", str(restored)) == 0
        assert restored.read_bytes() == content
        restored.unlink()

    first, second, third = (noise(seed, size) for seed, size in enumerate((IMAGE_BYTES, IMAGE_BYTES, IMAGE_BYTES // 2)))
    assert backed_up("first", first) == 0
    assert backed_up("second", second) == 0
    capsys.readouterr()
    assert backed_up("large", noise(9, 2 * IMAGE_BYTES)) == 1
    said = capsys.readouterr().err
    assert str(root) in said
    assert "No space left on device" in said
    assert "hint: nothing that was stored before is harmed" in said

    _fill(place / "filler")
    assert shutil.disk_usage(place).free < 64 << 10
    reads_back("first", first)
    assert (root / "reserve").exists()
    assert offhost("points", "forget", "first@latest", "--last") == 0
    assert offhost("repo", "gc") == 0
    subprocess.run(["sync", "--file-system", str(place)], check=True)  # ext4 counts what was deleted with its journal
    assert shutil.disk_usage(place).free > len(third)

    assert backed_up("third", third) == 0
    assert offhost("repo", "verify", "--data") == 0
    reads_back("second", second)
    reads_back("third", third)


def _fill(path: Path) -> None:
    """Take the last block."""
    with path.open("wb", buffering=0) as filler:
        while True:
            try:
                filler.write(bytes(4096))
            except OSError:
                return
