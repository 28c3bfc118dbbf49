"""The points of a repository as somebody sees them who looks again and again, and reads each of them once.

Does not own: which points count (repository.points).
"""

from dataclasses import dataclass, field

from offhost.ids import SessionId, VmId
from offhost.repository.points.manifest import Manifest
from offhost.repository.repository import Repository


@dataclass(slots=True)
class SeenPoints:
    """For one thread. A point never changes: from then on only the listing, and what is gone by now, are read anew."""

    repository: Repository
    _seen: dict[VmId, dict[SessionId, Manifest]] = field(default_factory=dict)

    def of(self, vm: VmId) -> tuple[list[Manifest], list[Manifest], frozenset[str]]:
        """The points of a VM that count, in order; those that did once; and all ids that are known to count no more."""
        points = self.repository.points
        gone = frozenset(points.gone())
        if vm not in self._seen:
            self._seen[vm] = {point.id: point for point in points.forgotten_of(vm)}
        seen = self._seen[vm]
        fresh, _ = points.survey(f"points/{self.repository.keyring.vm_folder(vm)}/", gone.union(seen))
        seen |= {point.id: point for point in fresh}
        standing = sorted((point for point in seen.values() if point.id not in gone), key=lambda point: point.order)
        return standing, [point for point in seen.values() if point.id in gone], gone
