"""What one sitting of the benchmark measured."""

from dataclasses import dataclass, field

from bench.measure import Cost

CHECKED, UNCHECKED, BORG = "offhost", "offhost, write check off", "borg"


@dataclass(slots=True)
class Sitting:
    """The figures of one pass over all steps.

    `area_bytes` were said to have changed on day two, and `read_bytes` of the disk were read for it.
    """

    used_bytes: dict[str, int]
    area_bytes: int
    read_bytes: int = 0
    costs: dict[tuple[str, str], Cost] = field(default_factory=dict)
    repository_bytes: dict[str, int] = field(default_factory=dict)

    def note(self, step: str, contestant: str, cost: Cost) -> None:
        """Keep a step's cost, and say so: a sitting takes minutes."""
        self.costs[step, contestant] = cost
        print(f"  {step:<20} {contestant:<26} {cost.wall_s:7.2f} s wall {cost.cpu_s:7.2f} s CPU", flush=True)

    def ratio(self, step: str, contestant: str) -> float:
        """How many times as fast as borg."""
        return self.costs[step, BORG].wall_s / self.costs[step, contestant].wall_s

    def saving(self, step: str, contestant: str) -> float:
        """How many times the processor seconds borg took: unlike wall time, hardly touched by what else runs."""
        return self.costs[step, BORG].cpu_s / self.costs[step, contestant].cpu_s
