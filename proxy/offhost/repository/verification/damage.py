"""Damage as a value: what is wrong, whom it harms, what to do about it."""

from dataclasses import dataclass

NAMED_HARMS = 1000
"""So many disks are named for one piece of damage; of the rest the number is told."""


@dataclass(frozen=True, slots=True)
class Damage:
    """Something wrong. `harms` are the disks and files of restore points that cannot be read right because of it."""

    what: str
    harms: tuple[str, ...] = ()
    hint: str | None = None
