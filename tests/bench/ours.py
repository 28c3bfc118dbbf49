"""offhost's side of the comparison: its command line; and by changed areas, the library below it.

Owns: the commands and what their output says. Does not own: measuring.
"""

import json
import sys
from pathlib import Path

from bench.measure import Cost, run
from offhost.extents import ExtentMap

_PASSPHRASE = "for a throw-away repository of public disks"


class Offhost:
    """One offhost repository, written with one compression and one setting of `--write-check`.

    Its index copies lie beside it.
    """

    def __init__(self, folder: Path, *, compression: str = "lz4", write_check: str = "full") -> None:
        self._folder = folder
        self._options = ("--compression", compression, "--write-check", write_check)
        self.repository = folder / "repository"
        self._env = {"OFFHOST_PASSPHRASE": _PASSPHRASE, "XDG_CACHE_HOME": str(folder / "cache")}
        folder.mkdir(parents=True)
        self._offhost("repo", "init")

    def _offhost(self, *arguments: str | Path) -> Cost:
        program = Path(sys.executable).with_name("offhost")
        return run([program, "--repo", self.repository, *arguments], env=self._env)

    def backup(self, disk: Path, vm: str) -> Cost:
        """Store a disk as a new point of the VM: the whole disk is read."""
        return self._offhost("backup", "image", disk, "--name", vm, *self._options, "--json")

    def backup_changed(self, disk: Path, vm: str, areas: ExtentMap) -> tuple[Cost, int]:
        """Store a disk that differs from the VM's last point within `areas` alone; also the bytes read of it."""
        areas_file = self._folder / "areas.json"
        areas_file.write_text(json.dumps([(area.start, area.end) for area in areas]))
        program: list[str | Path] = [sys.executable, "-m", "bench.incremental"]
        cost = run([*program, self.repository, disk, vm, areas_file], env=self._env)
        return cost, int(json.loads(cost.output)["read_bytes"])

    def restore(self, point: str, target: Path) -> Cost:
        """Write a point's disk, sparse, to a new file."""
        return self._offhost("restore", "disk", point, "--to", target)

    def verify(self) -> Cost:
        """Read and check every byte of every pack."""
        return self._offhost("repo", "verify", "--data", "--json")

    def forget(self, points: list[str]) -> Cost:
        """Give points up."""
        return self._offhost("points", "forget", *points, "--json")

    def collect(self) -> tuple[Cost, dict[str, float]]:
        """Give their space back; also the seconds of each phase."""
        cost = run([sys.executable, "-m", "bench.collection", self.repository], env=self._env)
        return cost, json.loads(cost.output)

    def list_points(self) -> Cost:
        """What there is, as a user asks."""
        return self._offhost("points", "list")

    def points(self, vm: str) -> list[str]:
        """The ids of the VM's points, oldest first."""
        points = json.loads(self._offhost("points", "list", "--json").output)
        return [str(point["id"]) for point in sorted(points, key=lambda one: str(one["time"])) if point["vm"] == vm]
