"""The backup program offhost is measured beside: borg 1.4, encrypting and compressing alike.

Owns: building it, and its commands. Does not own: measuring.
"""

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


class Borg:
    """One borg repository: `repokey-blake2`, lz4, content-defined chunks of borg's default parameters.

    The files cache is off: it knows a file by its modification time, and a running VM's disk is always new to it.
    """

    def __init__(self, program: Path, folder: Path) -> None:
        self._program = program
        self.repository = folder / "repository"
        self._env = {
            "BORG_PASSPHRASE": _PASSPHRASE,
            "BORG_BASE_DIR": str(folder / "base"),
            "BORG_RELOCATED_REPO_ACCESS_IS_OK": "yes",
        }
        folder.mkdir(parents=True)
        run([program, "init", "--encryption", "repokey-blake2", self.repository], env=self._env)

    def backup(self, disk: Path, archive: str) -> Cost:
        """Store a disk as a new archive."""
        options = ("--compression", "lz4", "--files-cache", "disabled")
        create: list[str | Path] = [self._program, "create", *options, f"{self.repository}::{archive}", disk.name]
        return run(create, env=self._env, cwd=disk.parent)

    def restore(self, archive: str, folder: Path) -> Cost:
        """Write an archive's disk, sparse, into a new folder under the name it had."""
        folder.mkdir()
        return run([self._program, "extract", "--sparse", f"{self.repository}::{archive}"], env=self._env, cwd=folder)
