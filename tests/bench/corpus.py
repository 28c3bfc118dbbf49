"""Builds the disks that the benchmark measures on, where no larger corpus is given.

Owns: three raw images with an MBR, an ext4 file system and a Debian installation in it. A; B, the same base with
other packages and another order of files, as a second VM of one estate; A2, which is A a day later.
Does not own: what is measured on them. Needs root, debootstrap and loop devices, and a few minutes the first time;
a finished corpus is kept.
"""

import os
import random
import shutil
import struct
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

DISKS = ("A", "B", "A2")
SUITE = "bookworm"
COMMON = ("ca-certificates", "curl", "openssh-server", "python3", "systemd-sysv", "vim-tiny")
PACKAGES_A = ("build-essential", "git", "nginx", "postgresql", "python3-numpy")
PACKAGES_B = ("default-jre-headless", "mariadb-server", "php-cli", "redis-server")
PACKAGES_DAY_TWO = ("ruby", "tmux")

DISK_BYTES = 3 << 30
PARTITION_START_BYTES = 1 << 20
SECTOR_BYTES = 512
DATABASE_PAGES = 6400
PAGE_BYTES = 8192
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}


def build(folder: Path) -> None:
    """Make the disks in `folder`, unless all of them are there.

    Raises: SystemExit, saying what is missing; CalledProcessError once the output of what failed was printed.
    """
    if all((folder / f"{name}.raw").exists() for name in DISKS):
        return
    if os.geteuid() != 0:
        raise SystemExit("bench: building disks mounts loop devices: run as root, or give disks with CORPUS=FOLDER")
    if not shutil.which("debootstrap", path=ENVIRONMENT["PATH"]):
        raise SystemExit("bench: building disks needs debootstrap (apt-get install debootstrap), or CORPUS=FOLDER")
    work = folder / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    tree_a, tree_b = work / "a", work / "b"
    print("corpus: installing Debian twice, some minutes", flush=True)
    _bootstrap(tree_a)
    _run("cp", "-a", tree_a, tree_b)
    _install(tree_a, (*COMMON, *PACKAGES_A))
    _install(tree_b, (*COMMON, *PACKAGES_B))
    _write_application_data(tree_a, seed=11)
    _write_application_data(tree_b, seed=12)
    print("corpus: making the disks", flush=True)
    _make_disk(work / "A.raw", tree_a, seed=1)
    _make_disk(work / "B.raw", tree_b, seed=2)
    _make_day_two(work / "A.raw", work / "A2.raw", seed=3)
    for name in DISKS:
        (work / f"{name}.raw").rename(folder / f"{name}.raw")
    shutil.rmtree(work)


def _run(*command: str | Path, stdin: bytes | None = None) -> None:
    arguments = [str(part) for part in command]
    done = subprocess.run(
        arguments, check=False, input=stdin, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if done.returncode:
        print(done.stdout.decode(errors="replace")[-4000:], flush=True)
        done.check_returncode()


def _output(*command: str) -> str:
    return subprocess.run(command, env=ENVIRONMENT, check=True, capture_output=True, text=True).stdout


def _bootstrap(tree: Path) -> None:
    """A minimal Debian from the mirror this machine uses, reached as this machine reaches it."""
    mirror = _output("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages").split()[:1]
    _run("debootstrap", "--variant=minbase", SUITE, tree, *mirror)
    for name in ("resolv.conf", "hosts"):
        shutil.copyfile(f"/etc/{name}", tree / "etc" / name)
    proxies = [line for line in _output("apt-config", "dump").splitlines() if line.startswith("Acquire::http")]
    (tree / "etc/apt/apt.conf.d/90network").write_text("\n".join(proxies) + "\n")
    (tree / "etc/dpkg/dpkg.cfg.d/unsafe-io").write_text("force-unsafe-io\n")
    no_services = tree / "usr/sbin/policy-rc.d"
    no_services.write_text("#!/bin/sh\nexit 101\n")
    no_services.chmod(0o755)


@contextmanager
def _mounted(*mount: str | Path) -> Iterator[None]:
    """A mount for as long as the scope lasts; the last argument is where."""
    _run("mount", *mount)
    try:
        yield
    finally:
        _run("umount", mount[-1])


def _install(tree: Path, packages: Sequence[str]) -> None:
    with _mounted("-t", "proc", "proc", tree / "proc"):
        _run("chroot", tree, "apt-get", "update")
        _run("chroot", tree, "apt-get", "install", "-y", "--no-install-recommends", *packages)


def _database_page(chance: random.Random, number: int) -> bytes:
    """A page half as random as compressed or encrypted columns are, half as repetitive as rows are."""
    return (chance.randbytes(PAGE_BYTES // 4) + b"row%06d " % number * 1024)[:PAGE_BYTES]


def _log_lines(chance: random.Random, day: int, count: int) -> bytes:
    return b"".join(
        b"2026-02-%02d 12:%02d:%02d app: GET /item/%d status=200 t=%dms\n"
        % (day, second // 60 % 60, second % 60, chance.randrange(10**6), chance.randrange(900))
        for second in range(count)
    )


def _write_application_data(tree: Path, *, seed: int) -> None:
    """A database file of 50 MiB and a dozen logs, which no package manager shares between the disks."""
    chance = random.Random(seed)
    with (tree / "srv/app.db").open("wb") as database:
        for number in range(DATABASE_PAGES):
            database.write(_database_page(chance, number))
    for log in range(12):
        (tree / f"var/log/app{log}.log").write_bytes(_log_lines(chance, 1, 20_000))


@contextmanager
def _partition(image: Path) -> Iterator[str]:
    """The image's one partition as a loop device."""
    device = _output("losetup", "--find", "--show", "--offset", str(PARTITION_START_BYTES), str(image)).strip()
    try:
        yield device
    finally:
        _run("losetup", "--detach", device)


def _master_boot_record() -> bytes:
    """One bootable Linux partition from 1 MiB to the end."""
    start, end = PARTITION_START_BYTES // SECTOR_BYTES, DISK_BYTES // SECTOR_BYTES
    beyond_cylinders = b"\xfe\xff\xff"
    entry = struct.pack("<B3sB3sII", 0x80, beyond_cylinders, 0x83, beyond_cylinders, start, end - start)
    return entry.rjust(446 + 16, b"\0").ljust(510, b"\0") + b"\x55\xaa"


def _file_list(tree: Path, *, seed: int) -> bytes:
    """All names of a tree for tar, in runs of 40 in random order, as the history of another installation would be."""
    listed = subprocess.run(["find", ".", "-xdev", "-print0"], cwd=tree, check=True, capture_output=True).stdout
    names = sorted(name for name in listed.split(b"\0") if name)
    runs = [names[at : at + 40] for at in range(0, len(names), 40)]
    random.Random(seed).shuffle(runs)
    return b"\0".join(name for run in runs for name in run) + b"\0"


def _make_disk(image: Path, tree: Path, *, seed: int) -> None:
    """Write a tree to a new disk. File system and identity depend on the seed alone."""
    with image.open("wb") as raw:
        raw.truncate(DISK_BYTES)
        raw.write(_master_boot_record())
    archive, target = image.with_suffix(".tar"), image.with_suffix(".mnt")
    tar_names = ("--no-recursion", "--numeric-owner", "--null", "--files-from=-")
    _run("tar", "-C", tree, *tar_names, "-cf", archive, stdin=_file_list(tree, seed=seed))
    target.mkdir()
    identity = f"{seed:08d}-0000-4000-8000-{seed:012d}"
    with _partition(image) as device:
        _run("mkfs.ext4", "-q", "-U", identity, "-E", f"hash_seed={identity}", device)
        with _mounted(device, target):
            _run("tar", "-C", target, "--numeric-owner", "-xpf", archive)
            (target / "etc/hostname").write_text(f"vm-{seed}\n")
            (target / "etc/machine-id").write_text(f"{seed:032x}\n")
    archive.unlink()


def _make_day_two(before: Path, after: Path, *, seed: int) -> None:
    """A day passes: packages come and go, 10 % of the database's pages are rewritten in place, logs grow."""
    _run("cp", "--sparse=always", before, after)
    target = after.with_suffix(".mnt")
    target.mkdir()
    chance = random.Random(seed)
    with _partition(after) as device, _mounted(device, target):
        _install(target, PACKAGES_DAY_TWO)
        with (target / "srv/app.db").open("r+b") as database:
            for number in chance.sample(range(DATABASE_PAGES), DATABASE_PAGES // 10):
                database.seek(number * PAGE_BYTES)
                database.write(_database_page(chance, number))
        for log in range(12):
            with (target / f"var/log/app{log}.log").open("ab") as lines:
                lines.write(_log_lines(chance, 2, 12_000))
        for package in sorted((target / "usr/share/doc").iterdir())[:4]:
            shutil.rmtree(package)
        _run("fstrim", target)
