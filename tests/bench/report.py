"""RESULTS.md: what the benchmark measured, on what, and which targets it met.

Owns: the targets and the words around the figures. Does not own: measuring.
"""

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median

from bench.peers import BORG_VERSION
from bench.sitting import BORG, BORG_ZSTD, CHECKED, CONTESTANTS, RESTIC, UNCHECKED, ZSTD, Sitting
from bench.stages import Together, table

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Target:
    """A promise on speed: a step done at least `times` as fast as borg does it."""

    step: str
    contestant: str
    times: float


SPEED_TARGETS = (
    Target("first full, A", CHECKED, 3),
    Target("first full, A", UNCHECKED, 4.5),
    Target("second VM, B", CHECKED, 6),
    Target("second VM, B", UNCHECKED, 9),
    Target("unchanged, A", CHECKED, 15),
    Target("restore A", CHECKED, 4),
)
READ_LIMIT = 1.6
SIZE_LIMIT = 0.88
MEMORY_LIMIT_BYTES = 600 * MIB
STAGES_SHARE = 0.8
LISTING_LIMIT_S = 0.2
LISTING = "list points"
BEGIN, END = "<!-- written by `make bench`: what stands here is replaced -->", "<!-- end of what `make bench` wrote -->"
PREAMBLE = """\
Encryption is on in all of them; borg runs with `repokey-blake2`, lz4 and its default chunker, restic, which always
compresses with Zstandard, with compression `auto`. Both read the whole disk each time, since a running VM's disk is
always newer than the last they saw. Each step starts with the images in the page cache and with all that was written
before on disk, before all else that runs where the user may ask for that. What is restored is compared with the disk it
came from. "Forget and collect" gives up A's first two points of three.
"""


def inserted(before: str, written: str) -> str:
    """A report with what was measured now in place of what was before; what people wrote around it is theirs."""
    head, _, rest = before.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n\n{written}\n{END}{tail}" if rest else f"{BEGIN}\n\n{written}\n{END}\n{before}"


def render(sittings: Sequence[Sitting], command: str, restic: str) -> str:
    """All that was measured: figures, ratios, stages and targets."""
    sections = {
        "## Seconds and processor seconds": _times(sittings),
        "## How many times as fast as the others": _ratios(sittings),
        "## Sizes": _sizes(sittings),
        "## Beside the sum of its stages": _stages(sittings),
        "## Where a collection's seconds go": _collection(sittings),
        "## Targets": _targets(sittings),
    }
    lines = [PREAMBLE, *_circumstances(sittings, command, restic)]
    for heading, rows in sections.items():
        lines += ["", heading, "", *rows]
    return "\n".join([*lines, ""])


def _circumstances(sittings: Sequence[Sitting], command: str, restic: str) -> list[str]:
    used = ", ".join(f"{name} {size // MIB}" for name, size in sittings[0].used_bytes.items())
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    return [
        f"- command: `{command}`",
        f"- machine: {_processor()}, {os.cpu_count()} cores, {memory_gib} GiB, Linux {platform.release()}",
        f"- load when it ended: {load}",
        f"- offhost {version('offhost')}, Python {platform.python_version()}, borg {BORG_VERSION}, restic {restic}",
        f"- disks, MiB in pages that are not zero: {used}",
        f"- sittings: {len(sittings)}; figures are medians",
    ]


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _times(sittings: Sequence[Sitting]) -> list[str]:
    rows = ["| | " + " | ".join(CONTESTANTS) + " |", "|---" * (len(CONTESTANTS) + 1) + "|"]
    for step in _steps(sittings):
        cells = [_time_cell(sittings, step, contestant) for contestant in CONTESTANTS]
        rows.append(f"| {step} | {' | '.join(cells)} |")
    peaks = [f"{_peak_memory(sittings, contestant) / MIB:.0f} MiB" for contestant in CONTESTANTS]
    rows.append(f"| most anonymous memory | {' | '.join(peaks)} |")
    return rows


def _steps(sittings: Sequence[Sitting]) -> list[str]:
    return list(dict.fromkeys(step for step, _ in sittings[0].costs))


def _time_cell(sittings: Sequence[Sitting], step: str, contestant: str) -> str:
    costs = [sitting.costs[step, contestant] for sitting in sittings if (step, contestant) in sitting.costs]
    if not costs:
        return "–"
    return f"{median(cost.wall_s for cost in costs):.2f} s ({median(cost.cpu_s for cost in costs):.1f} CPU)"


def _ratios(sittings: Sequence[Sitting]) -> list[str]:
    return [
        "| offhost | than borg | than restic |",
        "|---|---|---|",
        *(
            f"| {step} | {_ratio_cell(sittings, step, BORG)} | {_ratio_cell(sittings, step, RESTIC)} |"
            for step in _steps(sittings)
            if (step, BORG) in sittings[0].costs
        ),
    ]


def _ratio_cell(sittings: Sequence[Sitting], step: str, peer: str) -> str:
    if (step, peer) not in sittings[0].costs:
        return "–"
    times = median(sitting.ratio(step, CHECKED, peer) for sitting in sittings)
    saved = median(sitting.saving(step, CHECKED, peer) for sitting in sittings)
    return f"{times:.1f} × (by processor seconds {saved:.1f} ×)"


def _sizes(sittings: Sequence[Sitting]) -> list[str]:
    rows = ["| | repository after all | when collected |", "|---|---|---|"]
    for contestant in (CHECKED, BORG, ZSTD, BORG_ZSTD, RESTIC):
        if contestant in sittings[0].repository_bytes:
            after = sittings[0].collected_bytes.get(contestant)
            collected = f"{after / MIB:.0f} MiB" if after else "–"
            rows.append(f"| {contestant} | {_median_size(sittings, contestant) / MIB:.0f} MiB | {collected} |")
    return rows


def _stages(sittings: Sequence[Sitting]) -> list[str]:
    return table(_middle_stages(sittings))


def _collection(sittings: Sequence[Sitting]) -> list[str]:
    phases = list(dict.fromkeys(phase for sitting in sittings for phase in sitting.collection_s))
    rows = ["| offhost's phase | s |", "|---|---|"]
    return rows + [
        f"| {phase} | {median(each.collection_s.get(phase, 0) for each in sittings):.2f} |" for phase in phases
    ]


def _middle_stages(sittings: Sequence[Sitting]) -> list[Together]:
    """Those of the sitting in the middle by its first full: figures of one process belong together."""
    measured = sorted((sitting.stages for sitting in sittings if sitting.stages), key=lambda each: each[0].share)
    return measured[len(measured) // 2] if measured else []


def _median_size(sittings: Sequence[Sitting], contestant: str) -> float:
    return median(
        sitting.repository_bytes[contestant] for sitting in sittings if contestant in sitting.repository_bytes
    )


def _peak_memory(sittings: Sequence[Sitting], contestant: str) -> int:
    return max(
        cost.peak_anonymous_bytes
        for sitting in sittings
        for (_, who), cost in sitting.costs.items()
        if who == contestant
    )


def _targets(sittings: Sequence[Sitting]) -> list[str]:
    rows = ["| | target | measured | |", "|---|---|---|---|"]
    for target in SPEED_TARGETS:
        times = median(sitting.ratio(target.step, target.contestant) for sitting in sittings)
        name = f"{target.step}: {target.contestant}"
        saved = median(sitting.saving(target.step, target.contestant) for sitting in sittings)
        measured = f"{times:.1f} × (by processor seconds {saved:.1f} ×)"
        rows.append(_row(name, f"≥ {target.times:g} × borg", measured, met=times >= target.times))
    areas, read = sittings[0].area_bytes, sittings[0].read_bytes
    rows.append(
        _row(
            "day two by changed areas: bytes read",
            f"≤ {READ_LIMIT} × the areas",
            f"{read / areas:.2f} × ({read // MIB} of {areas // MIB} MiB)",
            met=read <= READ_LIMIT * areas,
        )
    )
    share = _median_size(sittings, CHECKED) / _median_size(sittings, BORG)
    rows.append(_row("repository", f"≤ {SIZE_LIMIT} of borg's", f"{share:.2f}", met=share <= SIZE_LIMIT))
    rows += [
        _row(
            f"{each.task}, of the speed of its stages",
            f"≥ {STAGES_SHARE:.0%}",
            f"{each.share:.0%}",
            met=each.share >= STAGES_SHARE,
        )
        for each in _middle_stages(sittings)
    ]
    listings = [sitting.costs[LISTING, CHECKED].wall_s for sitting in sittings if (LISTING, CHECKED) in sitting.costs]
    if listings:
        listing_s = median(listings)
        rows.append(_row(LISTING, f"< {LISTING_LIMIT_S} s", f"{listing_s:.2f} s", met=listing_s < LISTING_LIMIT_S))
    peak = max(_peak_memory(sittings, CHECKED), _peak_memory(sittings, UNCHECKED))
    limit = f"≤ {MEMORY_LIMIT_BYTES // MIB} MiB"
    rows.append(_row("most anonymous memory", limit, f"{peak // MIB} MiB", met=peak <= MEMORY_LIMIT_BYTES))
    return rows


def _row(name: str, target: str, measured: str, *, met: bool) -> str:
    return f"| {name} | {target} | {measured} | {'met' if met else '**not met**'} |"
