"""The backup programs offhost is measured beside, encrypting and compressing alike: borg 1.4 and Debian's restic.

Owns: where they come from, and their commands. Does not own: measuring.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from bench.measure import Cost, run

BORG_VERSION = "1.4.5"
BUILD_PACKAGES = "build-essential pkg-config python3-dev libssl-dev libacl1-dev liblz4-dev libxxhash-dev libzstd-dev"
_PASSPHRASE = "for a throw-away repository of public disks"


def build_borg(folder: Path) -> Path:
    """The borg program in an environment of its own under `folder`, built there once.

    Raises: CalledProcessError when the headers it is built with are missing; the message names their packages.
    """
    borg = folder / f"borg-{BORG_VERSION}" / "bin" / "borg"
    if not borg.exists():
        print(f"bench: building borg {BORG_VERSION} from source, about two minutes", flush=True)
        subprocess.run([sys.executable, "-m", "venv", borg.parents[1]], check=True)
        try:
            subprocess.run(
                [borg.with_name("pip"), "install", "--quiet", f"borgbackup=={BORG_VERSION}"],
                check=True,
            )
        except subprocess.CalledProcessError:
            print(f"bench: building borg wants these packages: {BUILD_PACKAGES}", file=sys.stderr)
            raise
    return borg


def find_restic() -> Path:
    """Debian's restic, installed where that is allowed. Raises: SystemExit, saying how to install it."""
    if not shutil.which("restic") and os.geteuid() == 0 and shutil.which("apt-get"):
        print("bench: installing Debian's restic", flush=True)
        subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", "restic"], check=False)
    found = shutil.which("restic")
    if not found:
        raise SystemExit("bench: measures restic too (apt-get install --no-install-recommends restic)")
    return Path(found)


def restic_version(restic: Path) -> str:
    """As it names itself."""
    return subprocess.run([restic, "version"], check=True, capture_output=True, text=True).stdout.split()[1]


class Borg:
    """One borg repository: `repokey-blake2`, content-defined chunks of borg's default parameters.

    The files cache is off: it knows a file by its modification time, and a running VM's disk is always new to it.
    """

    def __init__(self, program: Path, folder: Path, *, compression: str = "lz4") -> None:
        self._program, self._compression = program, compression
        self.repository = folder / "repository"
        self._env = {
            "BORG_PASSPHRASE": _PASSPHRASE,
            "BORG_BASE_DIR": str(folder / "base"),
            "BORG_RELOCATED_REPO_ACCESS_IS_OK": "yes",
        }
        folder.mkdir(parents=True)
        self._borg("init", "--encryption", "repokey-blake2", self.repository)

    def _borg(self, *arguments: str | Path, cwd: Path | None = None) -> Cost:
        return run([self._program, *arguments], env=self._env, cwd=cwd)

    def backup(self, disk: Path, archive: str) -> Cost:
        """Store a disk as a new archive."""
        options = ("--compression", self._compression, "--files-cache", "disabled")
        return self._borg("create", *options, f"{self.repository}::{archive}", disk.name, cwd=disk.parent)

    def restore(self, archive: str, folder: Path) -> Cost:
        """Write an archive's disk, sparse, into a new folder under the name it had."""
        folder.mkdir()
        return self._borg("extract", "--sparse", f"{self.repository}::{archive}", cwd=folder)

    def verify(self) -> Cost:
        """Read and check every byte."""
        return self._borg("check", "--verify-data", self.repository)

    def forget(self, archives: list[str]) -> Cost:
        """Give archives up."""
        return self._borg("delete", self.repository, *archives)

    def collect(self) -> Cost:
        """Give their space back, as far as borg does by default: segments of which a tenth is free."""
        return self._borg("compact", self.repository)


class Restic:
    """One restic repository, with its cache beside it. It always encrypts, and compresses with Zstandard (`auto`).

    It reads all of a file each time (`--force`), for the reason that borg does.
    """

    def __init__(self, program: Path, folder: Path) -> None:
        self._program = program
        self.repository = folder / "repository"
        self._env = {
            "RESTIC_PASSWORD": _PASSPHRASE,
            "RESTIC_REPOSITORY": str(self.repository),
            "RESTIC_CACHE_DIR": str(folder / "cache"),
        }
        folder.mkdir(parents=True)
        self._restic("init", "--repository-version", "2")

    def _restic(self, *arguments: str | Path, cwd: Path | None = None) -> Cost:
        return run([self._program, "--quiet", *arguments], env=self._env, cwd=cwd)

    def backup(self, disk: Path, snapshot: str) -> Cost:
        """Store a disk as a new snapshot, tagged with its name."""
        return self._restic("backup", "--compression", "auto", "--force", "--tag", snapshot, disk.name, cwd=disk.parent)

    def restore(self, snapshot: str, folder: Path) -> Cost:
        """Write a snapshot's disk into a new folder; Debian's version writes the zeros too."""
        return self._restic("restore", self._id(snapshot), "--target", folder)

    def _id(self, snapshot: str) -> str:
        listed = run([self._program, "snapshots", "--tag", snapshot, "--json"], env=self._env)
        return str(json.loads(listed.output)[0]["short_id"])

    def verify(self) -> Cost:
        """Read and check every byte."""
        return self._restic("check", "--read-data")

    def forget(self, snapshots: list[str]) -> Cost:
        """Give snapshots up."""
        return self._restic("forget", *map(self._id, snapshots))

    def collect(self) -> Cost:
        """Give their space back, as far as restic does by default: up to a twentieth may stay unused."""
        return self._restic("prune")
