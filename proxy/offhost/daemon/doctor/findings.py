"""What an examination found: one line each, good or bad."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from offhost.errors import OffhostError

Level: TypeAlias = Literal["ok", "warning", "error"]

_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Finding:
    """`subject` is what was looked at, `vCenter main`; `check` which of its sides."""

    subject: str
    check: str
    level: Level
    said: str
    hint: str | None = None


def failed(subject: str, check: str, error: OffhostError) -> Finding:
    """What an error says."""
    return Finding(subject, check, "error", str(error), error.hint)


def some(names: Sequence[str]) -> str:
    """The first few of many names, and how many there are."""
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"


def counted(number: int, thing: str) -> str:
    """`1 VM`, `2 VMs`."""
    return f"{number} {thing}{'' if number == 1 else 's'}"
