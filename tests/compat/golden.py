"""Golden repositories: one for each released format, made once and kept for ever.

`PYTHONPATH=tests python -m compat.golden NAME` makes `tests/compat/NAME.tar.gz` with the offhost at hand: run it when a
format is released, and never again for that format. What is in a golden repository is written down here.
"""

import io
import sys
import tarfile
import tempfile
from itertools import pairwise
from pathlib import Path

from offhost.chunking.workers import SpanWorkers
from offhost.extents import Extent, ExtentMap
from support.repositories import Memory, back_up, make, noise, opened

HERE = Path(__file__).parent
VM = "golden"


def generations() -> list[bytes]:
    """The disk at each of its points, the oldest first: content, a hole, a short last page, then changes."""
    first = bytearray(noise(1, 400_000) + bytes(200_000) + b"offhost " * 20_000 + noise(2, 1234))
    second = bytearray(first)
    second[100_000:150_000] = noise(3, 50_000)
    third = bytearray(second)
    third[450_000:460_000] = noise(4, 10_000)
    return [bytes(disk) for disk in (first, second, third)]


def _changed(before: bytes, after: bytes) -> ExtentMap:
    grain = 65536
    return ExtentMap(
        Extent(at, min(at + grain, len(after)))
        for at in range(0, len(after), grain)
        if before[at : at + grain] != after[at : at + grain]
    )


def build(root: Path) -> None:
    """Make the repository: the first point in full, the others by their changes."""
    make(root)
    disks = generations()
    with opened(root) as repository, SpanWorkers(1) as workers:
        back_up(repository, Memory(disks[0]), workers, name=VM)
        for before, after in pairwise(disks):
            back_up(repository, Memory(after), workers, name=VM, areas=_changed(before, after))


def unpack(archive: Path, into: Path) -> Path:
    """A golden repository, laid out as it was."""
    with tarfile.open(archive) as tar:
        tar.extraction_filter = getattr(tarfile, "data_filter", None)  # not in Debian 12's Python 3.11.2
        tar.extractall(into)
    return into / "repository"


def main(name: str) -> None:
    """Make and pack one."""
    target = HERE / f"{name}.tar.gz"
    if target.exists():
        sys.exit(f"{target} exists: a golden repository is made once")
    packed = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder) / "repository")
        with tarfile.open(fileobj=packed, mode="w:gz") as tar:
            tar.add(Path(folder) / "repository", "repository", filter=_anonymous)
    target.write_bytes(packed.getvalue())


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


if __name__ == "__main__":
    main(sys.argv[1])
