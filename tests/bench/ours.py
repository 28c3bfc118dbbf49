"""offhost's side of the comparison, through its command line; by changed areas, through the library call below it.

Owns: the commands and what their output says. Does not own: measuring.
"""

import json
import sys
from pathlib import Path

from bench.measure import Cost, run

_PASSPHRASE = "for a throw-away repository of public disks"


class Offhost:
    """One offhost repository, written with one setting of `--write-check`. Its index copies lie beside it."""

    def __init__(self, folder: Path, write_check: str) -> None:
        self._program = Path(sys.executable).with_name("offhost")
        self._write_check = write_check
        self.repository = folder / "repository"
        self._env = {"OFFHOST_PASSPHRASE": _PASSPHRASE, "XDG_CACHE_HOME": str(folder / "cache")}
        folder.mkdir(parents=True)
        self._run("repo", "init")

    def _run(self, *arguments: str | Path) -> Cost:
        options = ("--repo", self.repository, "--write-check", self._write_check)
        return run([self._program, *options, *arguments], env=self._env)

    def backup(self, disk: Path, vm: str) -> Cost:
        """Store a disk as a new point of the VM: the whole disk is read."""
        return self._run("backup", "image", disk, "--name", vm, "--json")

    def restore(self, point: str, target: Path) -> Cost:
        """Write a point's disk, sparse, to a new file."""
        return self._run("restore", "disk", point, "--to", target)

    def newest_point(self, vm: str) -> str:
        """The id of the VM's newest point."""
        points = json.loads(self._run("points", "list", "--json").output)
        return str(max((point for point in points if point["vm"] == vm), key=lambda point: point["time"])["id"])
