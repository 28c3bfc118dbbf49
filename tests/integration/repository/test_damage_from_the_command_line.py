"""What an operator sees of damage, from the bit that flipped to the repository that is whole again."""

import json
from pathlib import Path

import pytest

from offhost.cli.main import main
from offhost.repository.chunks.packs import Kind
from support.damage import chunks_of, flip, place_of, rot
from support.repositories import PASSPHRASE, make, noise, opened


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    path.write_bytes(noise(1, 400_000))
    return path


@pytest.fixture
def on(tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The beginning of every command: a repository with one restore point of `web`."""
    monkeypatch.setenv("OFFHOST_PASSPHRASE", PASSPHRASE.text)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    on = ["--repo", str(make(tmp_path / "repository"))]
    assert main([*on, "backup", "image", str(image), "--name", "web"]) == 0
    return on


def damage_one(on: list[str]) -> str:
    """Flip a bit of a chunk of web's disk; the point's id."""
    root = Path(on[1])
    with opened(root) as repository:
        (point,) = repository.points.all()
        rot(root, place_of(repository, chunks_of(repository, point, Kind.CONTENT)[0]))
    return point.id


def test_damage_is_named_healed_by_the_next_backup_and_gone(
    on: list[str], image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    point = damage_one(on)
    assert main([*on, "repo", "verify"]) == 0, "nobody has read the data yet"
    capsys.readouterr()
    assert main([*on, "repo", "verify", "--data"]) == 1
    said = capsys.readouterr().err
    assert f"harms web, point {point[:12]}" in said
    assert "disk disk0" in said
    assert "hint: the next backups store anew" in said
    assert main([*on, "repo", "verify"]) == 1, "it is marked"
    assert main([*on, "restore", "disk", "web@latest", "--to", str(tmp_path / "bad")]) == 1
    assert not (tmp_path / "bad").exists()
    assert main([*on, "backup", "image", str(image), "--name", "web"]) == 3
    assert "healed" in capsys.readouterr().err
    assert main([*on, "repo", "verify", "--data"]) == 0
    assert "healed: " in capsys.readouterr().err
    assert main([*on, "restore", "disk", point, "--to", str(tmp_path / "good")]) == 0
    assert (tmp_path / "good").read_bytes() == image.read_bytes()


def test_what_a_restore_finds_damaged_is_healed_by_the_next_backup(on: list[str], image: Path, tmp_path: Path) -> None:
    damage_one(on)
    assert main([*on, "restore", "disk", "web@latest", "--to", str(tmp_path / "bad")]) == 1
    assert main([*on, "backup", "image", str(image), "--name", "web"]) == 3
    assert main([*on, "repo", "verify", "--data"]) == 0


def test_programs_are_told_the_same(on: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    point = damage_one(on)
    capsys.readouterr()
    assert main([*on, "repo", "verify", "--data", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] is False
    (damage,) = told["damage"]
    assert point[:12] in damage["harms"][0]
    assert told["read_packs"] == told["packs"] == 1


def test_one_restore_point_is_read_to_its_end(on: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*on, "repo", "verify", "--point", "web@latest", "--disk", "disk0"]) == 0
    damage_one(on)
    assert main([*on, "repo", "verify", "--point", "web@latest"]) == 1
    assert "disk disk0" in capsys.readouterr().err


def test_a_lost_and_a_damaged_index_are_made_anew(on: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    (run,) = (Path(on[1]) / "index").iterdir()
    flip(run, 100)
    assert main([*on, "repo", "verify"]) == 1
    assert "repo rebuild" in capsys.readouterr().err
    assert main([*on, "repo", "rebuild"]) == 0
    assert not run.exists()
    assert main([*on, "repo", "verify"]) == 0


@pytest.mark.parametrize(
    "options",
    [
        ["--sample", "0%"],
        ["--sample", "101%"],
        ["--sample", "many"],
        ["--data", "--read-rate", "fast"],
        ["--data", "--read-rate", "0MiB/s"],
        ["--read-rate", "1MiB/s"],
        ["--anew"],
        ["--disk", "disk0"],
        ["--point", "web@latest", "--data"],
        ["--point", "nobody@latest"],
        ["--point", "web@latest", "--disk", "disk9"],
    ],
    ids=" ".join,
)
def test_what_makes_no_sense_is_refused(on: list[str], options: list[str]) -> None:
    assert main([*on, "repo", "verify", *options]) == 2


@pytest.mark.parametrize("options", [["--data", "--read-rate", "100MiB/s"], ["--sample", "5 %"], ["--data", "--anew"]])
def test_what_makes_sense_is_done(on: list[str], options: list[str]) -> None:
    assert main([*on, "repo", "verify", *options]) == 0
