"""`make bench`: offhost beside borg and restic on the same disks, step after step, in one sitting.

Owns: the order of the steps, and that what is restored is what was stored. Does not own: disks, commands, measuring,
the report. Ratios within one sitting are what counts: times on a shared machine do not compare between sittings.
"""

import argparse
import filecmp
import json
import os
import shutil
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from bench import corpus, report
from bench.disks import changed_areas, folder_bytes, used_bytes
from bench.measure import Cost, run
from bench.ours import Offhost
from bench.peers import Borg, Restic, build_borg, find_restic, restic_version
from bench.sitting import BORG, BORG_ZSTD, CHECKED, RESTIC, UNCHECKED, ZSTD, Sitting
from bench.stages import Together

STEPS = (("first full, A", "A", "A"), ("second VM, B", "B", "B"), ("unchanged, A", "A", "A-again"))
DAY_TWO = "day two, A2"


def sit(disks: dict[str, Path], borg_program: Path, restic_program: Path, work: Path) -> Sitting:
    """Take all through the same days: a first full, a second VM, nothing new, a day's changes, the way back; then
    every byte is checked, and A's first two points are forgotten and collected.
    """
    areas = changed_areas(disks["A"], disks["A2"])
    sitting = Sitting(used_bytes={name: used_bytes(disk) for name, disk in disks.items()}, area_bytes=areas.total_bytes)
    checked, unchecked = Offhost(work / "checked"), Offhost(work / "unchecked", write_check="off")
    borg, restic = Borg(borg_program, work / "borg"), Restic(restic_program, work / "restic")

    for step, name, archive in STEPS:
        sitting.note(step, CHECKED, checked.backup(disks[name], vm=name))
        sitting.note(step, UNCHECKED, unchecked.backup(disks[name], vm=name))
        sitting.note(step, BORG, borg.backup(disks[name], archive))
        sitting.note(step, RESTIC, restic.backup(disks[name], archive))
    cost, sitting.read_bytes = checked.backup_changed(disks["A2"], vm="A", areas=areas)
    sitting.note(DAY_TWO, CHECKED, cost)
    sitting.note(DAY_TWO, UNCHECKED, unchecked.backup(disks["A2"], vm="A"))
    sitting.note(DAY_TWO, BORG, borg.backup(disks["A2"], "A2"))
    sitting.note(DAY_TWO, RESTIC, restic.backup(disks["A2"], "A2"))
    weighed = {CHECKED: checked.repository, BORG: borg.repository, RESTIC: restic.repository}
    sitting.repository_bytes |= {who: folder_bytes(repository) for who, repository in weighed.items()}

    first, again, day_two = checked.points(vm="A")
    sitting.note("restore A", CHECKED, _restored(checked, first, disks["A"], work))
    sitting.note("restore A", BORG, _restored_to_folder(borg, "A", disks["A"], work))
    sitting.note("restore A", RESTIC, _restored_to_folder(restic, "A", disks["A"], work))
    _restored(checked, day_two, disks["A2"], work)
    sitting.note("verify every byte", CHECKED, checked.verify())
    sitting.note("verify every byte", BORG, borg.verify())
    sitting.note("verify every byte", RESTIC, restic.verify())
    forgotten = checked.forget([first, again])
    collected, sitting.collection_s = checked.collect()
    sitting.note("forget and collect", CHECKED, _both(forgotten, collected))
    sitting.note("forget and collect", BORG, _both(borg.forget(["A", "A-again"]), borg.collect()))
    sitting.note("forget and collect", RESTIC, _both(restic.forget(["A", "A-again"]), restic.collect()))
    sitting.collected_bytes |= {who: folder_bytes(repository) for who, repository in weighed.items()}
    _restored(checked, day_two, disks["A2"], work)
    sitting.note("list points", CHECKED, checked.list_points())
    return sitting


def weigh_zstd(sitting: Sitting, disks: dict[str, Path], borg_program: Path, work: Path) -> None:
    """The sizes of repositories compressed with Zstandard, at the level that each program has it at by default."""
    ours = Offhost(work / "zstd", compression="zstd")
    borg = Borg(borg_program, work / "borg-zstd", compression="zstd")
    for step, name, archive in (*STEPS, (DAY_TWO, "A2", "A2")):
        sitting.note(step, ZSTD, ours.backup(disks[name], vm=name[:1]))
        sitting.note(step, BORG_ZSTD, borg.backup(disks[name], archive))
    sitting.repository_bytes |= {ZSTD: folder_bytes(ours.repository), BORG_ZSTD: folder_bytes(borg.repository)}


def beside_its_stages(disk: Path, work: Path) -> list[Together]:
    """offhost beside the sum of its stages, in a process of its own."""
    measured = run([sys.executable, "-m", "bench.stages", disk, "--work", work, "--json"], env={})
    return [Together(**each) for each in json.loads(measured.output)]


def _both(one: Cost, other: Cost) -> Cost:
    peak = max(one.peak_anonymous_bytes, other.peak_anonymous_bytes)
    return Cost(one.wall_s + other.wall_s, one.cpu_s + other.cpu_s, peak, other.output)


def _restored(repository: Offhost, point: str, original: Path, work: Path) -> Cost:
    """Restore a point and hold it against the disk it was made from."""
    target = work / "restored.raw"
    cost = repository.restore(point, target)
    _must_be_equal(original, target)
    target.unlink()
    return cost


def _restored_to_folder(peer: Borg | Restic, archive: str, original: Path, work: Path) -> Cost:
    folder = work / "restored"
    cost = peer.restore(archive, folder)
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
        os.nice(-20)  # all contestants inherit it, as far as it counts: what else runs disturbs them less
    cache = arguments.cache.resolve()
    folder = arguments.corpus.resolve() if arguments.corpus else cache / "corpus"
    if arguments.corpus is None:
        corpus.build(folder)
    disks = {name: folder / f"{name}.raw" for name in corpus.DISKS}
    borg, restic = build_borg(cache), find_restic()
    sittings = []
    for number in range(1, arguments.rounds + 1):
        print(f"bench: sitting {number} of {arguments.rounds}", flush=True)
        with tempfile.TemporaryDirectory(prefix="bench-", dir=arguments.work or cache) as work:
            sittings.append(sit(disks, borg, restic, Path(work)))
            sittings[-1].stages = beside_its_stages(disks["A"], Path(work))
            if number == 1:  # sizes are the same every time
                weigh_zstd(sittings[-1], disks, borg, Path(work))
    command = f"make bench{f' CORPUS={folder.name}' if arguments.corpus else ''} ROUNDS={arguments.rounds}"
    before = arguments.report.read_text() if arguments.report.exists() else ""
    arguments.report.write_text(report.inserted(before, report.render(sittings, command, restic_version(restic))))
    print(f"bench: wrote {arguments.report}")


main()
