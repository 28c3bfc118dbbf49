"""Deleting what sweeps name, and what has no meaning without it.

Owns: the only deletions of a repository besides a key wrapper's. Whatever it deletes is named by a sweep, or is the
mark, session or heartbeat of something that is over: deleting it again, or late, or twice, harms nobody.
"""

import re
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from offhost.errors import Stopped
from offhost.repository.objects.attendance import attendance, is_gone
from offhost.repository.objects.verified import superseded
from offhost.repository.repository import Repository

_POINT = re.compile(r"points/[0-9a-f]{32}/([0-9a-f]{32})")
_PACK = re.compile(r"packs/[0-9a-f]{2}/([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Swept:
    """What was deleted."""

    points: int = 0
    packs: int = 0
    pack_bytes: int = 0

    def __add__(self, other: "Swept") -> "Swept":
        return Swept(self.points + other.points, self.packs + other.packs, self.pack_bytes + other.pack_bytes)


def sweep(repository: Repository, stop: threading.Event, progress: Callable[[str, int, int], None]) -> Swept:
    """Delete what all sweeps name, points before packs: a point must never be listed without what it needs.

    Raises: IntegrityError, BackendError; Stopped.
    """
    backend = repository.backend
    graves = repository.graveyard.read()

    def delete(names: Iterable[str], what: str = "") -> None:
        listed = list(names)
        for done, name in enumerate(listed):
            if stop.is_set():
                raise Stopped("the collection was stopped; the next one deletes the rest")
            if what:
                progress(f"deleting {what}", done, len(listed))
            backend.delete(name)

    points = [item.name for item in backend.list("points/") if _names(_POINT, item.name, graves.swept_points)]
    tombstones = sum(map(repository.points.is_tombstone, points))
    delete(points, "points")
    packs = {item.name: item.size_bytes for item in backend.list("packs/") if _names(_PACK, item.name, graves.swept)}
    delete(packs, "packs")
    delete(repository.marks.spent(graves.swept, graves.swept_points))
    delete(superseded(backend))
    delete(_left_sessions(repository, graves.swept_points))
    return Swept(len(points) - tombstones, len(packs), sum(packs.values()))


def _names(form: re.Pattern[str], name: str, wanted: frozenset[str]) -> bool:
    found = form.fullmatch(name)
    return found is not None and found[1] in wanted


def _left_sessions(repository: Repository, swept_points: frozenset[str]) -> list[str]:
    """The objects of sessions that have ended, or whose reader is gone."""
    backend, keyring = repository.backend, repository.keyring
    there = attendance(backend, keyring, swept_points)
    gone = [each for each in there.readers.values() if is_gone(each, backend, keyring, repository.clock)]
    beats = {item.name for item in backend.list("sessions/")} if gone else set()
    of_gone = [name for each in gone for name in sorted(beats, reverse=True) if name.startswith(f"sessions/{each.id}")]
    return [*there.leftovers, *of_gone]
