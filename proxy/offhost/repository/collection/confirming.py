"""What of a condemned list may really go.

Owns: the second look at each pack, by its own directory and not by the index: a pack goes when each chunk in it is
either needed by nobody, or lies, by another directory, in a sound pack outside the list, where what is needed of a
mostly dead pack is moved first. Does not own: what is needed (liveness), the moving (rewriting).
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from offhost.errors import IntegrityError, NoSpace, ObjectNotFound
from offhost.ids import ChunkId
from offhost.repository.chunks.packs import Entries, Location, read_directory
from offhost.repository.collection.liveness import Liveness
from offhost.repository.collection.rewriting import Rewriter
from offhost.repository.collection.usage import Usage, dead, worth_rewriting
from offhost.repository.objects.marks import Slots
from offhost.repository.repository import Repository

_log = logging.getLogger(__name__)


def confirmed(
    repository: Repository,
    liveness: Liveness,
    condemned: frozenset[str],
    damaged: Mapping[str, Slots],
    *,
    rewriter: Rewriter,
    stopping: Callable[[], None],
) -> frozenset[str]:
    """The packs of the list that may be deleted, once this has returned: what was to be moved is durable.

    Where there is no room to move anything, the packs go of which nothing is needed: that makes room for the next time.
    Raises: BackendError; what `stopping` raises.
    """
    look = _Look(repository, liveness, condemned, damaged)
    usages: list[Usage] = []
    for pack in sorted(condemned):
        stopping()
        usages += filter(None, [look.usage(pack)])
    try:
        for each in worth_rewriting(usages, damaged):
            stopping()
            look.move(each.pack, rewriter)
        rewriter.finish()
    except NoSpace as error:
        _log.warning("%s; what is left of mostly dead packs cannot be moved together now", error)
    emptied = {pack for pack, needed in look.moved.items() if needed <= rewriter.durable}
    return frozenset(emptied.union(each.pack for each in dead(usages)))


@dataclass(slots=True)
class _Look:
    """Looks into the packs of a list."""

    repository: Repository
    liveness: Liveness
    condemned: frozenset[str]
    damaged: Mapping[str, Slots]
    moved: dict[str, set[ChunkId]] = field(default_factory=dict)
    """What is needed of each pack that was emptied, and is safe once all of it is durable elsewhere."""
    _under_way: set[ChunkId] = field(default_factory=set)
    _directories: dict[str, frozenset[ChunkId]] = field(default_factory=dict)

    def usage(self, pack: str) -> Usage | None:
        """What is needed of a pack and lies nowhere else; None when nobody can tell, so that it must be kept."""
        try:
            entries = self._entries(pack)
        except (IntegrityError, ObjectNotFound) as error:
            _log.warning("%s: the pack is kept, since nobody can tell what is in it", error)
            return None
        size = int(entries["stored"].sum(dtype=np.uint64))
        return Usage(pack, size, sum(at.stored for _, at in self._only_here(pack, entries)))

    def move(self, pack: str, rewriter: Rewriter) -> None:
        """Move what is needed of a pack away from it, but for what was moved from another pack already.

        When some of it does not read back, that is marked: a pack of which something is damaged is kept as it is.
        """
        needed = self._only_here(pack, self._entries(pack))
        try:
            bad: Slots = rewriter.move(pack, [(chunk, at) for chunk, at in needed if chunk not in self._under_way])
        except IntegrityError as error:
            _log.warning("%s", error)
            bad = None
        if bad is None or bad:
            self.repository.marks.damage(pack, bad, "found when what was needed of it was to be moved")
            return
        self.moved[pack] = {chunk for chunk, _ in needed}
        self._under_way |= self.moved[pack]

    def _entries(self, pack: str) -> Entries:
        return read_directory(self.repository.backend, self.repository.keyring, pack)

    def _only_here(self, pack: str, entries: Entries) -> list[tuple[ChunkId, Location]]:
        """What is needed of a pack, and lies nowhere else."""
        ids = np.ascontiguousarray(entries["id"]).view(np.uint8).reshape(-1, 32)
        found = []
        for at in np.flatnonzero(self.liveness.needs(ids)).tolist():
            identity, _, *place = entries[at].item()
            chunk = ChunkId(identity)
            if not self._lies_elsewhere(chunk):
                found.append((chunk, Location(pack, *place)))
        return found

    def _lies_elsewhere(self, chunk: ChunkId) -> bool:
        """Whether a pack that stays has a sound copy, by its own directory."""
        return any(
            copy.pack not in self.condemned and self._sound(copy) and chunk in self._directory(copy.pack)
            for copy in self.repository.store.index.copies(chunk)
        )

    def _sound(self, copy: Location) -> bool:
        bad = self.damaged.get(copy.pack, frozenset())
        return bad is not None and copy.slot not in bad

    def _directory(self, pack: str) -> frozenset[ChunkId]:
        """The chunks of a pack, none where it cannot be read."""
        if pack not in self._directories:
            try:
                self._directories[pack] = frozenset(map(ChunkId, self._entries(pack)["id"].tolist()))
            except (IntegrityError, ObjectNotFound):
                self._directories[pack] = frozenset()
        return self._directories[pack]
