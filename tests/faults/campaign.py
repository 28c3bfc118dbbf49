"""The size of the campaigns, and what they amounted to.

`make faults` sets OFFHOST_FAULTS=long: every call, every byte, every state. Without it a bounded part is drawn, and so
many times as much with a number in its place.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TypeVar

LONG = os.environ.get("OFFHOST_FAULTS") == "long"
TIMES = 1 if LONG else int(os.environ.get("OFFHOST_FAULTS", "1"))

T = TypeVar("T")


def some(all_: Sequence[T], few: int) -> list[T]:
    """All of a sequence in the long campaign; else so many, always the same ones."""
    count = few * TIMES
    return list(all_) if LONG or len(all_) <= count else Random(len(all_)).sample(list(all_), count)


@dataclass
class Tally:
    """Counts what the campaigns did; a violation is a test that failed."""

    injected: dict[str, int] = field(default_factory=dict)
    checked: dict[str, int] = field(default_factory=dict)

    def count(self, campaign: str, faults: int, checks: int = 1) -> None:
        """So many faults more, and so many repositories in which the invariants were looked at afterwards."""
        self.injected[campaign] = self.injected.get(campaign, 0) + faults
        self.checked[campaign] = self.checked.get(campaign, 0) + checks

    def table(self) -> str:
        """As Markdown."""
        rows = [f"| {name} | {self.injected[name]:,} | {self.checked[name]:,} |" for name in sorted(self.injected)]
        total = f"| **all** | **{sum(self.injected.values()):,}** | **{sum(self.checked.values()):,}** |"
        head = ["| campaign | faults injected | repositories checked afterwards |", "|---|---:|---:|"]
        return "\n".join([*head, *rows, total])
