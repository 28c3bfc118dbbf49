"""Which point is a copy of which, in whatever repositories they lie.

Owns: the origin that a copied point records, whether a point is there already, which points are to be copied, where a
copy stands among the points of its VM. Pure. Does not own: the copying (replication).
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from offhost.errors import PackCorrupt
from offhost.ids import SessionId
from offhost.repository.points.manifest import Manifest

_KIND = "copy"
_GENERATIONS_LIMIT = 64


@dataclass(frozen=True, slots=True)
class Ancestor:
    """A point that a point is, or was copied from. `repository` is an id in hexadecimal."""

    repository: str
    point: SessionId
    sequence: int = field(compare=False, default=0)


def lineage(repository: str, point: Manifest) -> frozenset[Ancestor]:
    """A point of a repository, what it was copied from, and so on back to the backup: all of one content.

    Raises: PackCorrupt for an origin that is not one.
    """
    try:
        return frozenset([Ancestor(repository, point.id, point.sequence), *_ancestors(point.origin)])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise PackCorrupt(f"point {point.id}: its origin is not one: {error!r}") from error


def _ancestors(origin: Mapping[str, Any]) -> Iterator[Ancestor]:
    for _ in range(_GENERATIONS_LIMIT):
        if origin.get("kind") != _KIND:
            return
        yield Ancestor(str(origin["repository"]), SessionId(str(origin["point"])), int(origin["sequence"]))
        origin = origin["of"]
    raise ValueError(f"copied more than {_GENERATIONS_LIMIT} times")


@dataclass(frozen=True, slots=True)
class Twins:
    """A point of the source, and the same point at the destination."""

    original: Manifest
    copy: Manifest


@dataclass(frozen=True)
class Relation:
    """One VM's points in the repository `source` beside those in `destination` (ids in hexadecimal).

    `points` and `copies` are those that count, in order. `forgotten` lie at the destination and do not count any more;
    `gone` are the ids of all that it knows to have held once.

    A point is at the destination when one there has an ancestor in common with it, so that copies may go round in any
    way, back to the first repository too. What was forgotten there stays forgotten, by two rules: it is still known,
    or it is older than the newest copy and not among what that one says was never copied.
    """

    source: str
    destination: str
    points: Sequence[Manifest]
    copies: Sequence[Manifest]
    forgotten: Sequence[Manifest] = ()
    gone: Collection[str] = ()

    def is_there(self, point: Manifest) -> bool:
        """Whether the destination has this point, and it counts."""
        return not self._standing.isdisjoint(lineage(self.source, point))

    def copies_of(self, point: Manifest) -> list[Manifest]:
        """What is this point at the destination: a backup made there before a copy, and of several the same for all."""
        ancestors = lineage(self.source, point)
        found = [copy for copy in self.copies if not ancestors.isdisjoint(lineage(self.destination, copy))]
        return sorted(found, key=lambda copy: (copy.origin.get("kind") == _KIND, copy.id))

    def was_forgotten(self, point: Manifest) -> bool:
        """Whether the destination is known to have had this point and given it up."""
        ancestors = lineage(self.source, point)
        here = {ancestor.point for ancestor in ancestors if ancestor.repository == self.destination}
        return not here.isdisjoint(self.gone) or not self._fallen.isdisjoint(ancestors)

    def wanted(self, *, missed_too: bool) -> list[Manifest]:
        """The points to copy, the oldest first: what is newer than the newest copy, and with `missed_too` what that one
        says was never copied. All of them where there is no copy yet.
        """
        left = self._missed if missed_too else frozenset()
        return [point for point in self.points if self._is_new(point) and (self._is_newer(point) or point.id in left)]

    def due(self, point: Manifest) -> list[Manifest]:
        """What to copy once a backup has made this point: what is newer than the newest copy; where there is none yet,
        this point alone.
        """
        return [point] if self._newest is None else self.wanted(missed_too=False)

    def missed_before(self, point: Manifest) -> list[SessionId]:
        """The earlier points that have never been copied: what a copy of this one records."""
        earlier = self.points[: next(at for at, other in enumerate(self.points) if other.id == point.id)]
        return [
            other.id for other in earlier if self._is_new(other) and (self._is_newer(other) or other.id in self._missed)
        ]

    def nearest_twins(self, point: Manifest) -> Twins | None:
        """The point nearest to this one that is at both places, an earlier one if there is any."""
        twins = [twins for twins in self._twins if twins.original.id != point.id]
        earlier = [pair for pair in twins if pair.original.order < point.order]
        later = [pair for pair in twins if pair.original.order > point.order]
        if earlier:
            return max(earlier, key=lambda pair: pair.original.order)
        return min(later, key=lambda pair: pair.original.order, default=None)

    def sequence_for(self, point: Manifest) -> int:
        """Where a copy stands: behind all, unless later points are there; then where its time puts it before those."""
        later = [copy for copy in self.copies if self._is_later(copy, point)]
        if not later:
            return max((copy.sequence for copy in self.copies), default=0) + 1
        first = min(later, key=lambda copy: copy.order)
        before = (copy.sequence for copy in self.copies if copy.order < first.order)
        return max(before, default=first.sequence)

    def _is_later(self, copy: Manifest, point: Manifest) -> bool:
        """By the source's own order where the copy came from there, else by time."""
        known = self._sequences(copy)
        return max(known) > point.sequence if known else copy.time > point.time

    def _is_new(self, point: Manifest) -> bool:
        return not self.is_there(point) and not self.was_forgotten(point)

    def _is_newer(self, point: Manifest) -> bool:
        return self._newest is None or point.sequence > max(self._sequences(self._newest))

    def _sequences(self, copy: Manifest) -> list[int]:
        """The places that a point at the destination has had among the source's."""
        return [one.sequence for one in lineage(self.destination, copy) if one.repository == self.source]

    @cached_property
    def _newest(self) -> Manifest | None:
        """The copy of the source's newest point that was ever copied, as far as is still known."""
        copies = [copy for copy in (*self.copies, *self.forgotten) if self._sequences(copy)]
        return max(copies, key=lambda copy: max(self._sequences(copy)), default=None)

    @cached_property
    def _missed(self) -> frozenset[str]:
        origin = self._newest.origin if self._newest else {}
        missed = origin.get("missed") if origin.get("repository") == self.source else None
        return frozenset(map(str, missed)) if isinstance(missed, list) else frozenset()

    @cached_property
    def _standing(self) -> frozenset[Ancestor]:
        return frozenset().union(*(lineage(self.destination, copy) for copy in self.copies))

    @cached_property
    def _fallen(self) -> frozenset[Ancestor]:
        return frozenset().union(*(lineage(self.destination, copy) for copy in self.forgotten))

    @cached_property
    def _twins(self) -> list[Twins]:
        owners = {one: copy for copy in self.copies for one in lineage(self.destination, copy)}
        pairs = ((point, owners.get(one)) for point in self.points for one in lineage(self.source, point))
        return [Twins(point, copy) for point, copy in pairs if copy]


def copied_origin(source: str, point: Manifest, missed: Iterable[SessionId]) -> dict[str, Any]:
    """What a copy of a point of the repository `source` records; the point's own origin is kept inside."""
    return {
        "kind": _KIND,
        "repository": source,
        "point": point.id,
        "sequence": point.sequence,
        "missed": list(missed),
        "of": point.origin,
        **({"tags": point.origin["tags"]} if "tags" in point.origin else {}),
    }
