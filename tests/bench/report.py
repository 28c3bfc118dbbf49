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
from bench.sitting import BORG, CHECKED, UNCHECKED, Sitting

MIB = 1 << 20
CONTESTANTS = (CHECKED, UNCHECKED, BORG)


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
FINDINGS = "## What limits them"
PREAMBLE = """\
Written by `make bench`. Encryption and lz4 are on in both; borg runs with `repokey-blake2`, its default chunker, and
without its files cache, since a running VM's disk is always newer than that. Each step starts with the images in the
page cache and with all that was written before on disk, all at the highest priority that the user may ask for. What is
restored is compared with the disk it came from.
"""


def findings(report: Path) -> str:
    """What people wrote below the figures of the last report: it is theirs, and kept."""
    _, heading, text = report.read_text().partition(FINDINGS) if report.exists() else ("", "", "")
    return heading + text or f"{FINDINGS}\n"


def render(sittings: Sequence[Sitting], command: str, findings: str) -> str:
    """The whole report: figures and targets, then `findings` as they are."""
    return "\n".join(
        [
            "# offhost beside borg",
            "",
            PREAMBLE,
            *_circumstances(sittings, command),
            "",
            "## Seconds and processor seconds",
            "",
            *_times(sittings),
            "",
            "## Targets",
            "",
            *_targets(sittings),
            "",
            findings.rstrip(),
            "",
        ]
    )


def _circumstances(sittings: Sequence[Sitting], command: str) -> list[str]:
    used = ", ".join(f"{name} {size // MIB}" for name, size in sittings[0].used_bytes.items())
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    return [
        f"- command: `{command}`",
        f"- machine: {_processor()}, {os.cpu_count()} cores, {memory_gib} GiB, Linux {platform.release()}",
        f"- load when it ended: {load}",
        f"- offhost {version('offhost')}, Python {platform.python_version()}, borg {BORG_VERSION}",
        f"- disks, MiB in pages that are not zero: {used}",
        f"- sittings: {len(sittings)}; figures are medians",
    ]


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _times(sittings: Sequence[Sitting]) -> list[str]:
    steps = list(dict.fromkeys(step for step, _ in sittings[0].costs))
    rows = ["| | " + " | ".join(CONTESTANTS) + " |", "|---" * (len(CONTESTANTS) + 1) + "|"]
    for step in steps:
        cells = [_time_cell(sittings, step, contestant) for contestant in CONTESTANTS]
        rows.append(f"| {step} | {' | '.join(cells)} |")
    sizes = [f"{_median_size(sittings, contestant) / MIB:.0f} MiB" for contestant in CONTESTANTS]
    rows.append(f"| repository after all | {' | '.join(sizes)} |")
    peaks = [f"{_peak_memory(sittings, contestant) / MIB:.0f} MiB" for contestant in CONTESTANTS]
    rows.append(f"| most anonymous memory | {' | '.join(peaks)} |")
    return rows


def _time_cell(sittings: Sequence[Sitting], step: str, contestant: str) -> str:
    costs = [sitting.costs[step, contestant] for sitting in sittings if (step, contestant) in sitting.costs]
    if not costs:
        return "–"
    return f"{median(cost.wall_s for cost in costs):.2f} s ({median(cost.cpu_s for cost in costs):.1f} CPU)"


def _median_size(sittings: Sequence[Sitting], contestant: str) -> float:
    return median(sitting.repository_bytes[contestant] for sitting in sittings)


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
    peak = max(_peak_memory(sittings, CHECKED), _peak_memory(sittings, UNCHECKED))
    limit = f"≤ {MEMORY_LIMIT_BYTES // MIB} MiB"
    rows.append(_row("most anonymous memory", limit, f"{peak // MIB} MiB", met=peak <= MEMORY_LIMIT_BYTES))
    return rows


def _row(name: str, target: str, measured: str, *, met: bool) -> str:
    return f"| {name} | {target} | {measured} | {'met' if met else '**not met**'} |"
