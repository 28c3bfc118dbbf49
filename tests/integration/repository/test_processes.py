"""Between processes a chunk is stored twice only while both have it in flight."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from offhost.repository.chunks.packs import Kind, read_directory
from offhost.repository.repository import Repository
from support import repositories

BEFORE, NEW = 24 << 20, 16 << 20


def backing_up(root: Path, image: Path, name: str, cache: Path) -> "subprocess.Popen[str]":
    """A process that backs up an image."""
    environment = os.environ | {"OFFHOST_PASSPHRASE": repositories.PASSPHRASE.text, "XDG_CACHE_HOME": str(cache)}
    program = "import sys; from offhost.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "--repo", str(root), "backup", "image", str(image), "--name", name]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def ended(*processes: "subprocess.Popen[str]") -> None:
    for process in processes:
        output, _ = process.communicate()
        assert process.returncode == 0, output


def copies(repository: Repository) -> Counter[bytes]:
    """How often each chunk of content is stored."""
    found: Counter[bytes] = Counter()
    for pack in repository.store.index.packs:
        entries = read_directory(repository.backend, repository.keyring, pack)
        found.update(entries["id"][entries["kind"] == Kind.CONTENT].tolist())
    return found


@pytest.mark.slow
@pytest.mark.parametrize("shared_cache", [True, False])
def test_only_what_two_processes_have_in_flight_is_stored_twice(tmp_path: Path, shared_cache: bool) -> None:
    root = repositories.make(tmp_path / "repository")
    caches = [tmp_path / "cache"] * 3 if shared_cache else [tmp_path / f"cache{number}" for number in range(3)]
    image = tmp_path / "disk.raw"
    image.write_bytes(repositories.noise(1, BEFORE))
    ended(backing_up(root, image, "first", caches[0]))
    with repositories.opened(root) as repository:
        before = copies(repository)
    image.write_bytes(repositories.noise(1, BEFORE) + repositories.noise(2, NEW))
    ended(*(backing_up(root, image, f"vm{number}", caches[number]) for number in range(1, 3)))
    with repositories.opened(root) as repository:
        after = copies(repository)
        assert set(before.values()) == {1}
        boundary = 8  # chunks around the end of the first image are cut anew
        assert sum(after[chunk] == 1 for chunk in before) >= len(before) - boundary
        assert max(after.values()) <= 2
        points = repository.points.all()
        assert len(points) == 3
        content = {len(repositories.content(repository, point)) for point in points}
        assert content == {BEFORE, BEFORE + NEW}
        assert all(
            repositories.content(repository, point) == image.read_bytes()[: point.disks[0].map.size_bytes]
            for point in points
        )
    ended(backing_up(root, image, "last", caches[0]))
    with repositories.opened(root) as repository:
        assert copies(repository) == after, "what is there is not stored again"
