"""The guest of the demonstration: a disk with a real ext4 file system, and a day's work done on it.

Owns: the disk's content, the same every time, and which of its bytes a change of its files writes.
Does not own: the VM that has the disk.
"""

import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

DISK_BYTES = 256 << 20
_BLOCK_BYTES = 4096
_MIB = 1 << 20
_UUID = "6f1d2c3b-0000-4000-8000-0ff405700001"
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "E2FSPROGS_FAKE_TIME": "1790000000"}


def make_disk(disk: Path) -> None:
    """Make a raw disk of `DISK_BYTES` with some 60 MiB of files: logs, pictures, and a copy of the pictures."""
    tree = disk.with_suffix(".tree")
    _write(tree / "etc/motd", b"Welcome to web01.\n")
    _write(tree / "var/log/access.log", _log(day=1, size_bytes=20 * _MIB))
    for number in range(20):
        picture = random.Random(number).randbytes(_MIB)
        _write(tree / f"srv/pictures/{number:02}.jpg", picture)
        _write(tree / f"srv/copy-of-pictures/{number:02}.jpg", picture)
    with disk.open("wb") as file:
        file.truncate(DISK_BYTES)
    options = ("-q", "-F", "-b", str(_BLOCK_BYTES), "-U", _UUID, "-E", f"hash_seed={_UUID}", "-L", "web01")
    _run("mkfs.ext4", *options, "-d", str(tree), str(disk))


def a_day_of_work(disk: Path) -> Iterator[tuple[int, bytes]]:
    """Change files in the file system of `disk`, a raw image, and yield what that wrote: offsets and bytes.

    One file is rewritten, two are deleted, a new log and three new pictures are written.
    """
    before = disk.read_bytes()
    new = disk.with_suffix(".new")
    _write(new / "motd", b"Welcome to web01. The new pictures are in.\n")
    _write(new / "access.log.1", _log(day=2, size_bytes=2 * _MIB))
    for number in range(20, 23):
        _write(new / f"{number}.jpg", random.Random(number).randbytes(_MIB))
    commands = [
        *(f"rm {path}" for path in ("/etc/motd", "/srv/pictures/03.jpg", "/srv/pictures/07.jpg")),
        f"write {new}/motd /etc/motd",
        f"write {new}/access.log.1 /var/log/access.log.1",
        *(f"write {new}/{number}.jpg /srv/pictures/{number}.jpg" for number in range(20, 23)),
    ]
    script = disk.with_suffix(".debugfs")
    script.write_text("\n".join(commands))
    _run("debugfs", "-w", "-f", str(script), str(disk))
    yield from _differences(before, disk.read_bytes())


def check_file_system(disk: Path) -> bool:
    """Whether e2fsck, forced and without leave to mend, finds nothing wrong."""
    command = ("e2fsck", "-f", "-n", str(disk))
    return subprocess.run(command, env=_ENVIRONMENT, capture_output=True, check=False).returncode == 0


def _differences(before: bytes, after: bytes) -> Iterator[tuple[int, bytes]]:
    """The runs of blocks in which two images of one size differ, with what they hold after."""
    start = None
    for offset in range(0, len(after) + 1, _BLOCK_BYTES):
        block = slice(offset, offset + _BLOCK_BYTES)
        differs = before[block] != after[block]
        if differs and start is None:
            start = offset
        elif not differs and start is not None:
            yield start, after[start:offset]
            start = None


def _log(*, day: int, size_bytes: int) -> bytes:
    """A web server's log, as compressible as those are."""
    chance = random.Random(day)
    lines: list[str] = []
    length = 0
    while length < size_bytes:
        at = f"{chance.randrange(24):02}:{chance.randrange(60):02}:{chance.randrange(60):02}"
        address = f"192.0.2.{chance.randrange(256)}"
        page = f"/pictures/{chance.randrange(20):02}.jpg?session={chance.randrange(1 << 32):08x}"
        lines.append(f'{address} - - [{day:02}/Mar/2026:{at} +0000] "GET {page} HTTP/1.1" 200 {_MIB}\n')
        length += len(lines[-1])
    return "".join(lines).encode()[:size_bytes]


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _run(*command: str) -> None:
    """Run a program of e2fsprogs; debugfs ends in 0 whatever happened, and tells errors after its one line of banner.

    Raises: RuntimeError with what it said.
    """
    done = subprocess.run(command, env=_ENVIRONMENT, capture_output=True, text=True, check=False)
    told = [line for line in done.stderr.splitlines() if line and not line.startswith("debugfs ")]
    if done.returncode or told:
        raise RuntimeError(f"{command[0]} ended in {done.returncode}:\n{done.stderr}")
