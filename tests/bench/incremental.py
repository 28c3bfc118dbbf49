"""A backup by changed areas, as a program to be measured: what a VM's run does once vCenter has said what changed.

Owns: calling the library as a VM's run does, with areas found by comparing two disks. Does not own: measuring.
"""

import json
import os
import sys
import threading
from pathlib import Path

from offhost.backup.copy import DiskCopy, settle
from offhost.backup.destination import Destination
from offhost.blockio import FileReadAt
from offhost.chunking.workers import SpanWorkers
from offhost.extents import Extent, ExtentMap
from offhost.ids import image_id
from offhost.repository.keys.credentials import Passphrase
from offhost.repository.points.manifest import Manifest, PointDisk
from offhost.repository.repository import Repository


def back_up(destination: Destination, disk: Path, vm: str, areas: ExtentMap) -> int:
    """Commit a point of a one-disk VM that has a point already; the bytes that were read of the disk."""
    repository, stop = destination.repository, threading.Event()
    source = FileReadAt.open(disk)
    with repository.session(image_id(vm), destination.write_check) as (session, base):
        assert base is not None
        before = base.manifest.disks[0]
        copy = DiskCopy(source, session, destination.chunking, destination.workers, base=base.map(before), areas=areas)
        copy.run(stop)
        point = Manifest(
            id=session.id,
            vm_id=session.vm,
            vm_name=vm,
            sequence=base.manifest.sequence + 1,
            predecessor=repository.points.predecessor(base.manifest),
            time=repository.clock.now(),
            kind="incremental",
            consistency="offline",
            disks=(PointDisk(before.key, before.label, copy.finish()),),
        )
        settle(session, [lambda: copy.run(stop)], stop)
        session.commit(point)
    source.close()
    return copy.totals.read_bytes


def main() -> None:
    """REPOSITORY DISK VM AREAS, the last a JSON file of [start, end] pairs; prints bytes read as JSON."""
    folder, disk, vm, areas_file = sys.argv[1:]
    areas = ExtentMap(Extent(start, end) for start, end in json.loads(Path(areas_file).read_text()))
    cache = Path(os.environ["XDG_CACHE_HOME"]) / "offhost"
    with (
        Repository.open(Path(folder), Passphrase(os.environ["OFFHOST_PASSPHRASE"]), cache=cache) as repository,
        SpanWorkers() as workers,
    ):
        print(json.dumps({"read_bytes": back_up(Destination(repository, workers), Path(disk), vm, areas)}))


if __name__ == "__main__":
    main()
