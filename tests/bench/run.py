"""`make bench`: offhost beside borg on the same disks, step after step, in one sitting.

Owns: the order of the steps, and that what is restored is what was stored. Does not own: disks, commands, measuring,
the report. Ratios within one sitting are what counts: times on a shared machine do not compare between sittings.
"""

import argparse
import filecmp
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from bench import corpus, report
from bench.disks import changed_areas, folder_bytes, used_bytes
from bench.measure import Cost
from bench.ours import Offhost
from bench.peers import Borg, build_borg
from bench.sitting import BORG, CHECKED, UNCHECKED, Sitting


def sit(disks: dict[str, Path], borg_program: Path, work: Path) -> Sitting:
    """Take all through the same days: a first full, a second VM, nothing new, a day's changes, and the way back."""
    areas = changed_areas(disks["A"], disks["A2"])
    sitting = Sitting(used_bytes={name: used_bytes(disk) for name, disk in disks.items()}, area_bytes=areas.total_bytes)
    checked, unchecked = Offhost(work / "checked", "full"), Offhost(work / "unchecked", "off")
    borg = Borg(borg_program, work / "borg")

    for step, name, archive in (
        ("first full, A", "A", "A"),
        ("second VM, B", "B", "B"),
        ("unchanged, A", "A", "A-again"),
    ):
        sitting.note(step, CHECKED, checked.backup(disks[name], vm=name))
        sitting.note(step, UNCHECKED, unchecked.backup(disks[name], vm=name))
        sitting.note(step, BORG, borg.backup(disks[name], archive))

    cost, sitting.read_bytes = checked.backup_changed(disks["A2"], vm="A", areas=areas)
    sitting.note("day two, A2", CHECKED, cost)
    sitting.note("day two, A2", UNCHECKED, unchecked.backup(disks["A2"], vm="A"))
    sitting.note("day two, A2", BORG, borg.backup(disks["A2"], "A2"))
    for contestant, repository in ((CHECKED, checked), (UNCHECKED, unchecked), (BORG, borg)):
        sitting.repository_bytes[contestant] = folder_bytes(repository.repository)

    first, _, day_two = checked.points(vm="A")
    sitting.note("restore A", CHECKED, _restored(checked, first, disks["A"], work))
    sitting.note("restore A", BORG, _borg_restored(borg, "A", disks["A"], work))
    _restored(checked, day_two, disks["A2"], work)
    return sitting


def _restored(repository: Offhost, point: str, original: Path, work: Path) -> Cost:
    """Restore a point and hold it against the disk it was made from."""
    target = work / "restored.raw"
    cost = repository.restore(point, target)
    _must_be_equal(original, target)
    target.unlink()
    return cost


def _borg_restored(borg: Borg, archive: str, original: Path, work: Path) -> Cost:
    folder = work / "restored"
    cost = borg.restore(archive, folder)
    _must_be_equal(original, folder / original.name)
    shutil.rmtree(folder)
    return cost


def _must_be_equal(original: Path, restored: Path) -> None:
    if not filecmp.cmp(original, restored, shallow=False):
        raise AssertionError(f"{restored} is not what was stored of {original}: no figure of this sitting counts")


def main() -> None:
    """Measure and write the report; the disks and borg are built first where they are missing."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--corpus", type=Path, help="a folder with A.raw, B.raw and A2.raw")
    parser.add_argument("--cache", type=Path, required=True, help="where disks and borg are built and kept")
    parser.add_argument("--work", type=Path, help="where the repositories are written (default: beside the cache)")
    parser.add_argument("--rounds", type=int, default=1, help="sittings; the report shows the median of their ratios")
    parser.add_argument("--report", type=Path, required=True)
    arguments = parser.parse_args()

    with suppress(PermissionError):
        os.nice(-20)  # all contestants inherit it: what else runs on the machine disturbs them less
    cache = arguments.cache.resolve()
    folder = arguments.corpus.resolve() if arguments.corpus else cache / "corpus"
    if arguments.corpus is None:
        corpus.build(folder)
    disks = {name: folder / f"{name}.raw" for name in corpus.DISKS}
    borg = build_borg(cache)
    sittings = []
    for number in range(1, arguments.rounds + 1):
        print(f"bench: sitting {number} of {arguments.rounds}", flush=True)
        with tempfile.TemporaryDirectory(prefix="bench-", dir=arguments.work or cache) as work:
            sittings.append(sit(disks, borg, Path(work)))
    command = f"make bench{f' CORPUS={folder.name}' if arguments.corpus else ''} ROUNDS={arguments.rounds}"
    arguments.report.write_text(report.render(sittings, command, report.findings(arguments.report)))
    print(f"bench: wrote {arguments.report}")


main()
