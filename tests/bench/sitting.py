"""What one sitting of the benchmark measured."""

from dataclasses import dataclass, field

from bench.measure import Cost
from bench.stages import Together

CHECKED, UNCHECKED, ZSTD = "offhost", "offhost, write check off", "offhost, zstd"
BORG, BORG_ZSTD, RESTIC = "borg", "borg, zstd", "restic"
CONTESTANTS = (CHECKED, UNCHECKED, BORG, RESTIC)
"""Those that take every step; the others are there for the size of their repositories."""


@dataclass(slots=True)
class Sitting:
    """The figures of one pass over all steps.

    `area_bytes` were said to have changed on day two, and `read_bytes` of the disk were read for it. Repositories are
    weighed when all is in them, and again when what was forgotten has been collected.
    """

    used_bytes: dict[str, int]
    area_bytes: int
    read_bytes: int = 0
    costs: dict[tuple[str, str], Cost] = field(default_factory=dict)
    repository_bytes: dict[str, int] = field(default_factory=dict)
    collected_bytes: dict[str, int] = field(default_factory=dict)
    collection_s: dict[str, float] = field(default_factory=dict)
    stages: list[Together] = field(default_factory=list)

    def note(self, step: str, contestant: str, cost: Cost) -> None:
        """Keep a step's cost, and say so: a sitting takes minutes."""
        self.costs[step, contestant] = cost
        print(f"  {step:<20} {contestant:<26} {cost.wall_s:7.2f} s wall {cost.cpu_s:7.2f} s CPU", flush=True)

    def ratio(self, step: str, contestant: str, peer: str = BORG) -> float:
        """How many times as fast as a peer."""
        return self.costs[step, peer].wall_s / self.costs[step, contestant].wall_s

    def saving(self, step: str, contestant: str, peer: str = BORG) -> float:
        """How many times the processor seconds a peer took: unlike wall time, hardly touched by what else runs."""
        return self.costs[step, peer].cpu_s / self.costs[step, contestant].cpu_s
