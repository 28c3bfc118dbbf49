"""What an acceptance has shown, as values and as the text that is kept of it."""

from dataclasses import dataclass
from datetime import datetime

from offhost.errors import OffhostError
from offhost.vsphere.session import About

_SIMULATOR = "dbed6e0c-bd88-4ef6-b594-21283e1c677f"
"""The instance UUID of every vCenter of VMware's own simulator, vcsim."""


_TABLE = ("| a throw-away VM is | | took | seen |", "|---|---|---|---|")


@dataclass(frozen=True, slots=True)
class Step:
    """A step of the throw-away VM's life, and what was seen."""

    what: str
    took_s: float
    seen: tuple[str, ...]
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """The whole life. `left` is what could not be removed, `problem` why it ended early."""

    about: About
    time: datetime
    datastore: str
    steps: tuple[Step, ...]
    left: tuple[str, ...]
    problem: OffhostError | None

    @property
    def accepted(self) -> bool:
        """Whether every step was seen to work, and nothing is left."""
        return self.problem is None and not self.left

    @property
    def endpoint(self) -> str:
        """What was accepted: a simulator is called one."""
        simulated = ", VMware's simulator (vcsim)" if self.about.instance_uuid == _SIMULATOR else ""
        return f"{self.about.name}{simulated}"

    def markdown(self) -> str:
        """A section of a document that keeps what was seen, and where."""
        result = "accepted" if self.accepted else "NOT accepted"
        title = f"## {self.endpoint}: {result} on {self.time:%Y-%m-%d}"
        return "\n".join([title, "", *_TABLE, *map(_row, self.steps), ""])


def _row(step: Step) -> str:
    result = "failed" if step.failed else "ok"
    return f"| {step.what} | {result} | {step.took_s:.1f} s | {_cell('; '.join(step.seen))} |"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
