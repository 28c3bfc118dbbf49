"""Verification: whether everything that restore points refer to is there, and is what was written.

Owns: what is looked at, in which order; that damage is marked, so that writers store anew what it took; the report.
Does not own: the checks of a pack (checking), of index runs (agreement), of small objects (inspection), whom damage
harms (harm), what was read when (verified), reading one disk end to end (endtoend).
"""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from offhost.errors import BackendError, ObjectNotFound
from offhost.ids import ChunkId
from offhost.pacing import Pace
from offhost.repository.chunks.packs import Location, pack_object
from offhost.repository.objects.marks import Slots
from offhost.repository.objects.verified import Ledger
from offhost.repository.points.manifest import Manifest
from offhost.repository.repository import Repository
from offhost.repository.verification.agreement import Agreement
from offhost.repository.verification.checking import PackCheck, PackChecker, PackFault, in_threads, processors
from offhost.repository.verification.damage import NAMED_HARMS, Damage
from offhost.repository.verification.harm import Harm, HarmWalk
from offhost.repository.verification.inspection import inspect

_log = logging.getLogger(__name__)

Progress = Callable[[int, int], object]
"""Told bytes of packs done and in all."""

CONTINUED_WITHIN_S = 7 * 86400
"""A verification of everything that was begun longer ago than this is begun anew."""

_SAVE_EVERY_S = 300.0
_NAMED = 4

_MISSING = "chunks that restore points need are in no pack"
_POINT_TAKEN = "nobody but a collector deletes points, after saying so: see who has access to the repository"
_REBUILD = "no data is lost by it: `offhost repo rebuild` makes the index anew"
_UNREADABLE_POINT = "the VM's next backup does without it; `offhost points forget` with its full id gives it up"
_HEALING = "the next backups store anew what the disks still hold of it, for all points; the rest is lost"
_HARMLESS = "no restore point needs it, or another good copy is there"


@dataclass(frozen=True, slots=True)
class Reading:
    """How the bytes of packs are verified: `share` of them, those that were read longest ago first.

    A verification of everything goes on where one of the last days was stopped, unless `anew`.
    """

    share: float = 1.0
    bytes_per_s: float | None = None
    anew: bool = False
    threads: int = field(default_factory=processors)


@dataclass(slots=True)
class VerifyReport:
    """What was looked at and found wrong. `healed` is damage that is known and harms nothing any more."""

    points: int = 0
    packs: int = 0
    chunks: int = 0
    read_packs: int = 0
    """Packs of which every byte was read."""
    read_bytes: int = 0
    continued_from: datetime | None = None
    """When the verification was begun that this one went on with."""
    damage: list[Damage] = field(default_factory=list)
    healed: list[str] = field(default_factory=list)


def verify(
    repository: Repository,
    *,
    data: bool = False,
    reading: Reading | None = None,
    progress: Progress = lambda *_: None,
    stop: threading.Event,
) -> VerifyReport:
    """Check every pack's directory, the index, every map, and that all their chunks exist; with `data`, every byte too.

    Damage is in the report, not an error, and is marked where the repository can be written to.
    Raises: Stopped, what was read being remembered; Unavailable when the store as a whole does not answer.
    """
    return _Verification(repository, reading or (Reading() if data else None), progress, stop).run()


class _Verification:
    """One verification. For one thread, which has others read packs.

    `_bad` is what counts as damaged: what was found now, and what was marked before and has not been read again.
    """

    def __init__(
        self, repository: Repository, reading: Reading | None, progress: Progress, stop: threading.Event
    ) -> None:
        self._repository, self._reading, self._progress, self._stop = repository, reading, progress, stop
        self._report = VerifyReport()
        self._bad: dict[str, PackFault] = {}
        self._known: Mapping[str, Slots] = {}
        self._new: set[str] = set()
        self._vanished: list[str] = []
        self._index_knows = False
        self._agreement = Agreement()
        pace = Pace(reading.bytes_per_s if reading else None, repository.clock)
        self._checker = PackChecker(
            repository.backend,
            repository.keyring,
            stop,
            before_read=lambda count: pace.take(count, stop),
            on_directory=self._agreement.learn,
            hands=repository.store.hands,
        )

    def run(self) -> VerifyReport:
        """All of it."""
        repository, report = self._repository, self._report
        repository.refresh()
        self._known = repository.marks.damaged()
        self._bad = {pack: _marked(pack, slots) for pack, slots in self._known.items()}
        report.damage += inspect(repository.backend, repository.keyring)
        self._check_packs()
        self._check_runs()
        points, unreadable = repository.points.read()
        report.points = len(points)
        report.damage += [Damage(str(error), hint=_UNREADABLE_POINT) for error in unreadable]
        if not unreadable:  # a predecessor that does not open has been named already
            report.damage += _order_broken(points, repository)
        repository.refresh()  # what the newest of these points refer to may have come while packs were read
        self._name_harm(points)
        return report

    # packs

    def _check_packs(self) -> None:
        """Every pack's directory, and the bytes of those whose turn it is."""
        repository = self._repository
        exist = repository.store.index.packs
        listed = ((item.name.rpartition("/")[2], item.size_bytes) for item in repository.backend.list("packs/"))
        sizes = {pack: size for pack, size in listed if pack in exist}
        if self._reading is None:
            self._check(sorted(sizes), sizes, self._checker.directory)
            return
        ledger = Ledger.load(repository.backend, repository.keyring, repository.clock)
        turn = self._turn(ledger, self._reading, sizes)
        self._check(sorted(sizes.keys() - set(turn)), {}, self._checker.directory)
        try:
            with repository.store.hands.at_work():
                self._check(turn, sizes, self._checker.data, ledger)
        except BaseException:
            ledger.save(sizes)
            raise
        ledger.save(sizes, done=self._reading.share >= 1)

    def _turn(self, ledger: Ledger, reading: Reading, sizes: Mapping[str, int]) -> list[str]:
        """The packs to read, the one first that was read longest ago."""
        turn = sorted(sizes, key=lambda pack: (ledger.read_at(pack), pack))
        if reading.share < 1:
            wanted, taken = reading.share * sum(sizes.values()), 0
            for count, pack in enumerate(turn):
                if taken >= wanted:
                    return turn[:count]
                taken += sizes[pack]
            return turn
        now, begun = ledger.now(), ledger.begun
        if begun is None or reading.anew or not 0 <= now - begun <= CONTINUED_WITHIN_S:
            ledger.begun = now
            return turn
        self._report.continued_from = datetime.fromtimestamp(begun, UTC)
        return [pack for pack in turn if ledger.read_at(pack) < begun]

    def _check(
        self,
        packs: Sequence[str],
        sizes: Mapping[str, int],
        work: Callable[[str], PackCheck],
        ledger: Ledger | None = None,
    ) -> None:
        """Have packs checked by several threads; what is found is marked, and what was read remembered, as it goes."""
        clock, report = self._repository.clock, self._report
        done, total = 0, sum(sizes.get(pack, 0) for pack in packs)
        save_at = clock.monotonic() + _SAVE_EVERY_S
        threads = self._reading.threads if self._reading else processors()
        for check in in_threads(packs, work, threads, self._stop):
            if check.gone and self._is_swept(check.pack):
                continue
            report.packs += 1
            report.chunks += check.chunks
            report.read_bytes += check.read_bytes
            if ledger and not check.gone:
                report.read_packs += 1
                self._forgive(check)
                ledger.add(check.pack)
                if clock.monotonic() >= save_at:
                    ledger.save(sizes)
                    save_at = clock.monotonic() + _SAVE_EVERY_S
            if check.fault:
                self._blame(check.fault)
            if total:
                done += sizes.get(check.pack, 0)
                self._progress(done, total)

    def _is_swept(self, pack: str) -> bool:
        """Whether a collector took it since it was listed."""
        return pack in self._repository.graveyard.read_tolerant().swept

    # damage of packs

    def _forgive(self, check: PackCheck) -> None:
        """What was marked before and reads well now harms nothing."""
        if self._bad.pop(check.pack, None) and not check.fault:
            self._report.healed.append(f"{pack_object(check.pack)}: was marked as damaged, and reads well now")

    def _blame(self, fault: PackFault) -> None:
        """Count copies as bad, and mark them, so that writers store their chunks anew."""
        known = self._known.get(fault.pack, frozenset())
        self._bad[fault.pack] = fault if fault.pack not in self._bad else self._bad[fault.pack].joined(fault)
        if fault.is_among(known):
            return
        _log.warning("damaged: %s", fault.what)
        self._new.add(fault.pack)
        if fault.lasting:
            self._mark(fault)

    def _mark(self, fault: PackFault) -> None:
        try:
            self._repository.marks.damage(fault.pack, fault.slots, fault.what)
        except BackendError as error:
            _log.warning("the damage could not be marked, so that no backup heals it: %s", error)

    # index

    def _check_runs(self) -> None:
        """That each run opens and says of packs what they say themselves, and that all it names are there."""
        repository = self._repository
        survey = self._agreement.survey(repository.backend, repository.keyring)
        self._report.damage += [Damage(problem, hint=_REBUILD) for problem in survey.wrong.values()]
        named = survey.packs.union(self._known)
        self._vanished = sorted(pack for pack in named - repository.store.index.packs if self._has_vanished(pack))
        # when most have vanished it is likelier that what they lie on is not mounted, and a mark is for ever
        lasting = len(self._vanished) <= len(repository.store.index.packs)
        for pack in self._vanished:
            self._blame(PackFault(pack, None, f"{pack_object(pack)} has vanished", lasting))

    def _has_vanished(self, pack: str) -> bool:
        """Whether a pack that was not listed ought to be there; one that was put since then is."""
        try:
            self._repository.backend.size(pack_object(pack))
        except ObjectNotFound:
            return not self._is_swept(pack)
        return False

    # harm

    def _name_harm(self, points: Sequence[Manifest]) -> None:
        """Which disks need what is damaged; what none needs is told apart."""
        report = self._report
        known = self._repository.store.index.damaged
        self._index_knows = all(fault.is_among(known.get(pack, frozenset())) for pack, fault in self._bad.items())
        walk = HarmWalk(self._repository, self._judge, self._stop)
        harms = self._gathered(walk.of(points))
        self._mark_found(walk.found)
        for cause, named in harms.items():
            vanished = f"{_listed(self._vanished)} vanished: " if cause == _MISSING and self._vanished else ""
            report.damage.append(Damage(vanished + cause, tuple(named), hint=_HEALING))
        for fault in self._bad.values():
            if fault.what in harms or (fault.pack in self._vanished and _MISSING in harms):
                continue
            if fault.pack in self._new:
                report.damage.append(Damage(fault.what, hint=_HARMLESS))
            else:
                report.healed.append(f"{fault.what}: {_HARMLESS}")

    def _gathered(self, found: Iterable[Harm]) -> dict[str, list[str]]:
        """Harm by its cause; without that of points that were collected since they were listed."""
        named: dict[str, dict[Harm, None]] = {}
        untold: dict[str, int] = {}
        for harm in found:
            of_cause = named.setdefault(harm.cause, {})
            if len(of_cause) < NAMED_HARMS:
                of_cause[harm] = None
            else:
                untold[harm.cause] = untold.get(harm.cause, 0) + 1
        gone = self._repository.points.gone() if named else set()
        told = {cause: [str(harm) for harm in of_cause if harm.point not in gone] for cause, of_cause in named.items()}
        for cause, count in untold.items():
            told[cause].append(f"and {count} more")
        return {cause: harms for cause, harms in told.items() if harms}

    def _mark_found(self, found: Mapping[ChunkId, str]) -> None:
        """Leaves and list pages that did not read when the maps were walked."""
        for chunk, what in found.items():
            for at in self._repository.store.index.copies(chunk):
                if not (known := self._bad.get(at.pack)) or not known.holds(at.slot):
                    self._blame(PackFault(at.pack, frozenset([at.slot]), what))

    def _judge(self, chunks: Sequence[ChunkId]) -> list[str | None]:
        """Why no good copy of a chunk is there."""
        index = self._repository.store.index
        readable = index.readable(chunks) if self._index_knows else [False] * len(chunks)
        doubtful = [chunk for chunk, good in zip(chunks, readable, strict=True) if not good]
        if not doubtful:
            return [None] * len(chunks)
        places = zip(doubtful, index.look_up(doubtful), strict=True)
        reasons = {chunk: self._why_not(chunk, place) for chunk, place in places}
        return [reasons.get(chunk) for chunk in chunks]

    def _why_not(self, chunk: ChunkId, place: Location | None) -> str | None:
        if place is None:
            return _MISSING
        if (first := self._fault_at(place)) is None:
            return None
        others = self._repository.store.index.copies(chunk)
        return None if any(self._fault_at(other) is None for other in others) else first.what

    def _fault_at(self, place: Location) -> PackFault | None:
        fault = self._bad.get(place.pack)
        return fault if fault and fault.holds(place.slot) else None


def _listed(packs: Sequence[str]) -> str:
    return ", ".join(map(pack_object, packs[:_NAMED])) + (f" and {len(packs) - _NAMED} more" * (len(packs) > _NAMED))


def _marked(pack: str, slots: Slots) -> PackFault:
    which = "" if slots is None else f", slot {', '.join(map(str, sorted(slots)[:_NAMED]))}"
    return PackFault(pack, slots, f"{pack_object(pack)}{which}: known to be damaged")


def _order_broken(points: Sequence[Manifest], repository: Repository) -> Iterator[Damage]:
    """A point whose predecessor is neither there nor known to be gone was robbed of it."""
    present = {point.id: point for point in points}
    known = repository.points.gone()
    for point in points:
        before = point.predecessor
        if before is None or before.id in known:
            continue
        if before.id not in present:
            yield Damage(f"point {before.id[:12]} of {point.vm_name} has vanished", hint=_POINT_TAKEN)
        elif repository.points.predecessor(present[before.id]) != before:
            yield Damage(f"point {before.id[:12]} of {point.vm_name} was exchanged for another", hint=_POINT_TAKEN)
