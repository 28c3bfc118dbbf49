"""Collection: what no restore point needs is found, condemned, looked at once more, swept and deleted.

Owns: the protocol of FORMAT.md, "Collection", by which collectors and writers in any number of processes need no lock:
create-only objects decide, clocks only say when to give up waiting. Does not own: what is needed (liveness), which
packs are worth it (usage), copying (rewriting), what of a condemned pack may go (confirming), deleting (sweeping).
"""

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from offhost.errors import (
    BackendError,
    CollectionBlocked,
    IntegrityError,
    ObjectExists,
    ObjectNotFound,
    OffhostError,
    Stopped,
)
from offhost.ids import ChunkId, SessionId
from offhost.repository.chunks.consolidation import consolidate_runs
from offhost.repository.chunks.packs import read_directory
from offhost.repository.collection.confirming import confirmed
from offhost.repository.collection.liveness import Liveness, refuse_missing
from offhost.repository.collection.rewriting import Rewriter
from offhost.repository.collection.sweeping import Swept, sweep
from offhost.repository.collection.usage import Usage, dead, usage, worth_rewriting
from offhost.repository.objects.attendance import Session, attendance, fence, is_gone
from offhost.repository.objects.graves import Verdict
from offhost.repository.objects.marks import Slots
from offhost.repository.objects.presence import lives
from offhost.repository.objects.sealed import ObjectType, seal_json
from offhost.repository.points.manifest import Manifest
from offhost.repository.repository import Repository

_log = logging.getLogger(__name__)

PATIENCE_S = 3600.0
"""A writer of another host that has not beaten for so long is fenced; it beats every five minutes."""

_TOMBSTONES_WORTH_A_LIST = 100
"""So many are worth a collection of their own; fewer go with the next one."""

_LOOK_AGAIN_S = 2.0
_ATTEMPTS = 3

Progress = Callable[[str, int, int], None]
"""Told what is being done, and how much of it is done, of how much."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """What a collection would take: packs without anything needed, packs to move the rest out of, forgotten points.

    And the tombstones of sessions that have ended without one, and the marks of forgotten points that are not there,
    which every listing of points would have to read.
    """

    dead: tuple[Usage, ...]
    rewritten: tuple[Usage, ...]
    points: frozenset[SessionId]
    tombstones: frozenset[SessionId] = frozenset()

    @property
    def freed_bytes(self) -> int:
        """What it would free, about."""
        whole = sum(each.size_bytes for each in self.dead)
        return whole + sum(each.size_bytes - each.needed_bytes for each in self.rewritten)

    @property
    def verdict(self) -> Verdict:
        """As a condemned list."""
        packs = frozenset(each.pack for each in (*self.dead, *self.rewritten))
        return Verdict(packs, frozenset(self.points | self.tombstones))

    @property
    def is_worth_it(self) -> bool:
        """Whether to put a list."""
        return bool(self.dead or self.rewritten or self.points) or len(self.tombstones) >= _TOMBSTONES_WORTH_A_LIST


@dataclass(frozen=True, slots=True)
class Collected:
    """What a collection has done. `waiting_for` names the writers for whose end it must be run again."""

    generation: str | None = None
    resumed: bool = False
    waiting_for: tuple[str, ...] = ()
    fenced: tuple[str, ...] = ()
    spared_packs: int = 0
    """Condemned, and needed by then."""
    rewritten_bytes: int = 0
    swept: Swept = field(default_factory=Swept)

    @property
    def freed_bytes(self) -> int:
        """What there is room for again."""
        return self.swept.pack_bytes - self.rewritten_bytes


@dataclass(slots=True)
class Collector:
    """Collects one repository. For one thread; any number of collectors may be at work in other processes.

    It may be stopped, killed or paused at any moment: the next one goes on where it was. Without `wait` it does not
    wait for writers that began before it, and has to be run again when they have ended.
    """

    repository: Repository
    stop: threading.Event
    progress: Progress = lambda *_: None
    wait: bool = True
    patience_s: float = PATIENCE_S
    look_again_s: float = _LOOK_AGAIN_S

    def propose(self) -> Proposal:
        """What would be condemned now. Raises: CollectionBlocked; IntegrityError, BackendError; Stopped."""
        repository = self.repository
        repository.refresh_keys()
        swept = repository.graveyard.read().swept_points
        forgotten = repository.marks.forgotten(strict=True) - swept - self._held_points()
        liveness, damaged = self._marked(frozenset(forgotten))
        sizes = {item.name.rpartition("/")[2]: item.size_bytes for item in repository.backend.list("packs/")}
        known = sizes.keys() - liveness.census.unread  # what nobody can tell would be kept, again and again
        packs = [each for each in usage(liveness.census, liveness, sizes, damaged) if each.pack in known]
        present = repository.points.ids()
        return Proposal(
            tuple(filter(self._opens, dead(packs))),
            tuple(filter(self._opens, worth_rewriting(packs, damaged))),
            frozenset(forgotten & present),
            repository.points.tombstones() | frozenset(forgotten - present),
        )

    def _opens(self, pack: Usage) -> bool:
        """Whether a pack can be looked at by its directory: otherwise it would be condemned and kept each time."""
        try:
            read_directory(self.repository.backend, self.repository.keyring, pack.pack)
        except (IntegrityError, ObjectNotFound) as error:
            _log.warning("%s: the pack is kept, since nobody can tell what is in it", error)
            return False
        return True

    def run(self) -> Collected:
        """Collect, or go on with a collection that was begun.

        Raises: CollectionBlocked, IntegrityError when something cannot be read: then nothing was deleted that was not
        decided on before; FormatTooNew, BackendError; Stopped.
        """
        repository = self.repository
        repository.backend.check_writable()
        repository.check_collectable()
        before = sweep(repository, self.stop, self.progress)  # what one that was killed has left
        found = self._standing_or_condemned()
        if found is None:
            self._merge_runs()
            return Collected(swept=before)
        generation, resumed = found
        if resumed:  # whoever put it may not have come so far yet, or not at all
            repository.backend.make_durable([f"condemned/{generation}"])
        result = Collected(generation, resumed=resumed, swept=before)
        if generation not in repository.graveyard.numbers("sweeps"):
            waiting, fenced = self._await_writers()
            result = replace(result, waiting_for=waiting, fenced=fenced)
            if waiting:
                return result
            result = self._decide(generation, result)
        after = sweep(repository, self.stop, self.progress)
        self._merge_runs()
        return replace(result, swept=before + after)

    def _merge_runs(self) -> None:
        """Few index runs in place of many. They only spare time: failing at it is no failure to collect."""
        try:
            consolidate_runs(self.repository.store)
        except (IntegrityError, BackendError) as error:
            _log.warning("the index runs stay as they are: %s", error)

    def _standing_or_condemned(self) -> tuple[str, bool] | None:
        """The list to work on, and whether it was begun before; None when there is nothing to collect."""
        graveyard = self.repository.graveyard
        condemned, sweeps = graveyard.numbers("condemned"), graveyard.numbers("sweeps")
        if standing := sorted(condemned - sweeps):
            return standing[0], True
        proposal = self.propose()
        if not proposal.is_worth_it:
            return None
        generation = f"{max(map(int, condemned | sweeps), default=0) + 1:08d}"
        self.repository.check_collectable()
        return generation, not self._put_first(ObjectType.CONDEMNED, f"condemned/{generation}", proposal.verdict)

    def _put_first(self, kind: ObjectType, name: str, verdict: Verdict) -> bool:
        """Put an object that decides; False when one was there first, perhaps this one by a reply that was lost."""
        repository = self.repository
        data = seal_json(repository.keyring, kind, name, verdict.to_json())
        for attempt in range(_ATTEMPTS):
            try:
                repository.backend.put(name, data)
            except ObjectExists:
                return False
            except OffhostError as error:
                if not error.retry or attempt == _ATTEMPTS - 1:
                    raise
            else:
                break
        return True

    def _await_writers(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Wait for each writer that may not have seen the list; who is still waited for, and who was fenced.

        A heartbeat counts when it is seen, by this collector's own clock: one that was suspended itself looks first.
        """
        repository, clock = self.repository, self.repository.clock
        awaited = dict(self._present_writers())
        heard = {sid: (writer.beats, clock.monotonic()) for sid, writer in awaited.items()}
        fenced: list[str] = []
        while awaited:
            now = clock.monotonic()
            present = self._present_writers()
            awaited = {sid: present[sid] for sid in awaited if sid in present}
            for sid, writer in awaited.items():
                if writer.beats != heard[sid][0]:
                    heard[sid] = (writer.beats, now)
                if lives(writer.process) is False or now - heard[sid][1] > self.patience_s:
                    fence(repository.backend, repository.keyring, writer)
                    fenced.append(str(writer))
            if fenced and awaited:
                awaited = {sid: writer for sid, writer in awaited.items() if str(writer) not in fenced}
            if awaited and not self.wait:
                return tuple(map(str, awaited.values())), tuple(fenced)
            if awaited:
                self.progress(f"waiting for {', '.join(map(str, awaited.values()))}", 0, 0)
                if self.stop.wait(self.look_again_s):
                    raise Stopped("stopped while waiting for writers; the next collection goes on from here")
        return (), tuple(fenced)

    def _present_writers(self) -> dict[SessionId, Session]:
        repository = self.repository
        repository.refresh_keys()
        return attendance(repository.backend, repository.keyring, repository.graveyard.read().swept_points).writers

    def _decide(self, generation: str, result: Collected) -> Collected:
        """Look again at what is needed by now; move it away; put the sweep, or take the one that was there first."""
        repository = self.repository
        listed = repository.graveyard.condemned(generation)
        held = self._held_points()
        liveness, damaged = self._marked(listed.points - held)
        rewriter = Rewriter(repository.backend, repository.keyring, repository.store, repository.reader)
        packs = confirmed(repository, liveness, listed.packs, damaged, rewriter=rewriter, stopping=self._stopping)
        repository.check_collectable()
        self._put_first(ObjectType.SWEEP, f"sweeps/{generation}", Verdict(packs, listed.points - held))
        taken = repository.graveyard.sweep(generation).packs  # another's, perhaps, who was first
        return replace(result, spared_packs=len(listed.packs - taken), rewritten_bytes=rewriter.moved_bytes)

    def _held_points(self) -> frozenset[str]:
        """The points that somebody is reading, or has pinned: both look at what is condemned after they said so."""
        repository = self.repository
        backend, keyring = repository.backend, repository.keyring
        readers = attendance(backend, keyring, repository.graveyard.read().swept_points).readers.values()
        read = {reader.point_id for reader in readers if not is_gone(reader, backend, keyring, repository.clock)}
        return frozenset(read | {pin.point for pin in repository.marks.pins(strict=True)})

    def _marked(self, gone: frozenset[str]) -> tuple[Liveness, Mapping[str, Slots]]:
        """What all points need but those that are gone or swept, and the damage known. Raises: CollectionBlocked.

        Looked at twice before that: the local copy of the index may turn out to be rotten, and what another collector
        moves while the packs are being listed may be seen in neither place.
        """
        try:
            return self._walked(gone)
        except CollectionBlocked as error:
            _log.info("%s; looking once more", error)
            return self._walked(gone)

    def _walked(self, gone: frozenset[str]) -> tuple[Liveness, Mapping[str, Slots]]:
        repository = self.repository
        repository.refresh_keys()
        # the points before the packs: whatever a point needs was there before it
        points = self._standing_points(gone | repository.graveyard.read().swept_points)
        repository.refresh(for_writing=True)
        damaged = repository.marks.damaged(strict=True)
        # content that lay in a pack known to be lost is lost already; anything else that is missing is a doubt
        known_lost = any(slots is None for slots in damaged.values())
        liveness = Liveness(
            repository.store.index.census(), repository.reader, _ignore if known_lost else refuse_missing
        )
        for done, point in enumerate(points):
            self.progress("looking at what points need", done, len(points))
            try:
                liveness.add([point], self._stopping)
            except IntegrityError as error:
                raise CollectionBlocked(
                    f"nothing is collected: point {point.id[:12]} of {point.vm_name} cannot be resolved: {error}",
                    hint=f"a backup of the VM may heal it; or give it up: `offhost points forget {point.id}`",
                ) from error
        return liveness, damaged

    def _standing_points(self, gone: frozenset[str]) -> list[Manifest]:
        """All points but those that are gone, the oldest of a VM first. Raises: CollectionBlocked."""
        points, unreadable = self.repository.points.survey(gone=gone)
        for name, error in unreadable.items():
            raise CollectionBlocked(
                f"nothing is collected, since what a point needs cannot be known: {error}",
                hint=f"give it up by its id: `offhost points forget {name.rpartition('/')[2]}`",
            ) from error
        return points

    def _stopping(self) -> None:
        if self.stop.is_set():
            raise Stopped("the collection was stopped; nothing that is needed was touched, and the next one goes on")


def _ignore(chunk: ChunkId) -> None:
    _log.debug("chunk %s was in a pack that is lost", chunk.hex()[:12])
