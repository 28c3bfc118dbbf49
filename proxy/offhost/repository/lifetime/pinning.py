"""Forgetting, pinning and unpinning points that somebody names.

Owns: what may be forgotten by name, and whether a pin held. Does not own: what expires by policy (expiry), the marks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from offhost.errors import Conflict, NotFound
from offhost.ids import SessionId
from offhost.repository.points.listing import choose
from offhost.repository.points.manifest import Manifest
from offhost.repository.unlocked import UnlockedRepository


@dataclass(frozen=True, slots=True)
class Named:
    """A point that somebody named. One that does not open has no time, and no VM."""

    id: SessionId
    vm_name: str | None
    time: datetime | None

    def __str__(self) -> str:
        if self.time is None:
            return f"point {self.id}, which does not open"
        return f"point {self.id[:12]} of {self.vm_name} ({self.time:%Y-%m-%d %H:%M:%S} UTC)"

    @classmethod
    def of(cls, point: Manifest) -> "Named":
        """A point that opens."""
        return cls(point.id, point.vm_name, point.time)


def named(repository: UnlockedRepository, texts: Sequence[str], *, last_too: bool) -> list[Named]:
    """The points to forget that these texts mean, each once.

    The last point of a VM is meant only by its full id, or with `last_too`; a point that does not open only by its full
    id. Raises: NotFound; Conflict for a last point that was not named so, and for one that is pinned.
    """
    points, unreadable = repository.points.survey()
    broken = {name.rpartition("/")[2] for name in unreadable}
    found: dict[str, Named] = {}
    surely: set[str] = set()
    for text in texts:
        if text.lower() in broken:
            found[text.lower()] = Named(SessionId(text.lower()), None, None)
            continue
        point = choose(points, text)
        found[point.id] = Named.of(point)
        surely |= {point.id} if last_too or text.lower() == point.id else set()
    _refuse_pinned(repository, found)
    _refuse_last(points, set(found), surely)
    return list(found.values())


def _refuse_pinned(repository: UnlockedRepository, found: dict[str, Named]) -> None:
    for pin in repository.marks.pins():
        if pin.point in found:
            note = f": {pin.note}" if pin.note else ""
            raise Conflict(f"{found[pin.point]} is pinned{note}", hint=f"`offhost points unpin {pin.point[:12]}` first")


def _refuse_last(points: Sequence[Manifest], found: set[str], surely: set[str]) -> None:
    remaining = {point.vm_id for point in points if point.id not in found}
    for point in points:
        if point.id in found - surely and point.vm_id not in remaining:
            raise Conflict(
                f"{Named.of(point)}: its VM would have no restore point left",
                hint=f"to forget it nevertheless, name it in full, {point.id}, or add --last",
            )


def forget(repository: UnlockedRepository, points: Sequence[Named]) -> None:
    """Take points out of every list; until they are collected, a pin brings them back."""
    for point in points:
        repository.marks.forget(point.id, "by name")


def pin(repository: UnlockedRepository, text: str, note: str) -> Named:
    """Keep a point from expiring, also one that was forgotten and is not collected yet.

    Raises: NotFound; Conflict when a collector has condemned it: it may be gone any moment.
    """
    points, _ = repository.points.survey(gone=repository.graveyard.read_tolerant().swept_points)
    point = choose(points, text)
    repository.marks.pin(point.id, note)
    # put first, looked after: a collector that condemns it from now on looks for pins once more before it sweeps
    graves = repository.graveyard.read_tolerant()
    if point.id in graves.condemned_points | graves.swept_points:
        raise Conflict(
            f"{Named.of(point)} was forgotten, and is being collected: the pin may have come too late",
            hint="should `offhost points list` still show it after the collection, it is there to stay",
        )
    return Named.of(point)


def unpin(repository: UnlockedRepository, text: str) -> tuple[Named, bool]:
    """Take all pins off a point; whether it is forgotten without them. Raises: NotFound when it has none."""
    points, _ = repository.points.survey()
    point = choose(points, text)
    pins = [each for each in repository.marks.pins() if each.point == point.id]
    if not pins:
        raise NotFound(f"{Named.of(point)} is not pinned", hint="`offhost points list` shows which points are")
    for each in pins:
        repository.marks.unpin(each)
    return Named.of(point), point.id in repository.marks.forgotten()
