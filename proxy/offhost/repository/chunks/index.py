"""Which chunks exist, and where: a cache over what the packs themselves say.

Owns: learning what packs hold, from runs and from the directories of packs that no run covers; batch look-ups; keeping
segments few. Does not own: the runs' format (runs), rows (segments), what a copy counts for (standing).
"""

import logging
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

import blake3
import numpy as np

from offhost.backend.contract import Backend
from offhost.errors import BackendError, IntegrityError, ObjectNotFound
from offhost.ids import ChunkId
from offhost.repository.chunks.census import Census
from offhost.repository.chunks.packs import Entries, Location, pack_object, read_directory
from offhost.repository.chunks.rows import as_ids, one_of_each
from offhost.repository.chunks.runs import Coverage, Run, get_run
from offhost.repository.chunks.search import Search
from offhost.repository.chunks.segments import Merger, Segment, SegmentRotten, in_order, load
from offhost.repository.chunks.standing import Judged, Rank, Standing, with_copies
from offhost.repository.chunks.tiers import like_sized
from offhost.repository.keys.keyring import Keyring
from offhost.repository.objects.marks import Slots

_log = logging.getLogger(__name__)

_PACK = re.compile(r"packs/[0-9a-f]{2}/([0-9a-f]{64})")
_RECENT_LIMIT = 1 << 15
_LISTINGS = 3
_DISTRUSTED_LIMIT = 10_000
_CACHE_KEY = "offhost 1 index cache key"

T = TypeVar("T")


class Index:
    """Chunk id to location. Thread-safe.

    Invariant: a pack in `_covered` has all its chunks in a segment or among the recent; a location is only given out
    for a pack that was listed and is not swept. Holding `_lock`, nothing is read from the repository.
    """

    def __init__(self, backend: Backend, keyring: Keyring, cache: Path | None) -> None:
        self._backend, self._keyring = backend, keyring
        self._lock = threading.RLock()
        self._refreshing = threading.Lock()
        self._tidying = threading.Lock()
        self._merger = Merger(cache, blake3.blake3(keyring.id_key, derive_key_context=_CACHE_KEY).digest())
        self._standing, self._looked = Standing(), False
        self._judged: list[Judged] = []
        self._recent: dict[ChunkId, Location] = {}
        self._recent_packs: dict[str, Entries] = {}
        self._since_listing: set[str] = set()
        self._covered: set[str] = set()
        self._named: set[str] = set()
        self._distrusted: dict[Location, str] = {}
        self._runs_read: set[str] = set()
        self._asked = False
        if cache:
            for segment in load(cache, self._merger.key):
                self._take_in(segment)

    def _take_in(self, segment: Segment) -> None:
        self._judged = [*self._judged, Judged.by(self._standing, segment)]
        self._covered |= segment.whole
        self._named.update(segment.packs)
        self._runs_read |= segment.runs

    # -------------------------------------------------------------------------------------------- learning

    def refresh(
        self,
        condemned: frozenset[str],
        swept: frozenset[str],
        damaged: Mapping[str, Slots] = MappingProxyType({}),
    ) -> None:
        """List the packs anew and learn what they hold; the caller sees to it that older verdicts do not come later.

        A pack that cannot be read is logged and holds nothing: what needs it will say so, and verification names it.
        `condemned` packs stay readable and hold nothing for a writer, and so do `damaged` copies, which are a reader's
        last choice; `swept` packs are gone.
        """
        with self._refreshing:
            self._look(Standing(set(), condemned, swept, damaged))
        self.tidy()

    def look_again(self) -> BackendError | None:
        """List the packs anew, with the verdicts known already, for a reader who misses a chunk.

        Why it may be missed although it is there: a pack that cannot be reached.
        """
        with self._refreshing:
            return next(iter(self._look(self._standing)), None)

    def ask_packs(self) -> BackendError | None:
        """Learn what every pack says of itself, once: the last resort of a reader who misses a chunk.

        For runs that are wrong and keep something back: they are a cache, and no chunk is lost by them. Why a chunk may
        be missed although it is there: a pack that cannot be reached.
        """
        unreached: list[BackendError] = []
        with self._refreshing:
            if self._asked:
                return None
            packs = {pack for pack in self._standing.listed if self._standing.exists(pack)}
            _log.warning("a chunk is in no index run: reading the directories of %d packs", len(packs))
            found = self._directories(packs, Coverage(), unreached)
            parts = self._merger.gather(found, self._standing.exists)
            joined = self._joined(parts) if parts else []
            with self._lock:
                for segment in joined:
                    self._take_in(segment)
            self._asked = not unreached
        return next(iter(unreached), None)

    def _look(self, verdicts: Standing) -> list[BackendError]:
        with self._lock:
            self._since_listing = set()
        listed = {found[1] for item in self._backend.list("packs/") if (found := _PACK.fullmatch(item.name))}
        with self._lock:
            listed |= self._since_listing
            damaged = with_copies(verdicts.damaged, self._distrusted)
            self._judge(Standing(listed, verdicts.condemned, verdicts.swept, damaged))
            self._looked = True
        return self._learn()

    def _judge(self, standing: Standing) -> None:
        """Let this be what copies count for. The caller holds `_lock`."""
        self._standing = standing
        self._judged = [Judged.by(standing, each.segment) for each in self._judged]

    def distrust(self, copy: Location, what: str) -> None:
        """A copy has failed its checks: from now on it counts as damaged in this process, marked or not."""
        with self._lock:
            standing = self._standing
            if standing.of(copy) < Rank.DAMAGED and len(self._distrusted) < _DISTRUSTED_LIMIT:
                self._distrusted[copy] = what
                damaged = with_copies(standing.damaged, [copy])
                self._judge(Standing(standing.listed, standing.condemned, standing.swept, damaged))

    @property
    def distrusted(self) -> dict[Location, str]:
        """The copies that have failed their checks in this process, and why."""
        with self._lock:
            return dict(self._distrusted)

    def _unknown(self) -> set[str]:
        with self._lock:
            return {pack for pack in self._standing.listed - self._covered if self._standing.exists(pack)}

    def _learn(self) -> list[BackendError]:
        """Take in what packs hold that are not covered yet; why some could not be reached.

        The caller holds `_refreshing`.
        """
        unreached: list[BackendError] = []
        unknown = self._unknown()
        if not unknown:
            return unreached
        coverage, read = Coverage(), set[str]()
        found = chain(self._runs(unknown, coverage, read), self._directories(unknown, coverage, unreached))
        parts = self._merger.gather(found, self._standing.exists)
        whole = frozenset(coverage.whole() & unknown)
        joined = self._joined(parts, whole=whole, runs=frozenset(read)) if parts or read else []
        with self._lock:
            for segment in joined:
                self._take_in(segment)
            self._covered |= whole
            self._named |= coverage.named()
            self._runs_read |= read
        return unreached

    def _runs(self, unknown: set[str], coverage: Coverage, read: set[str]) -> Iterator[Segment]:
        for name, run in self._new_runs():
            read.add(name)
            coverage.add(run.packs, run.shard)
            if wanted := [pack for pack in run.packs if pack in unknown]:
                yield Segment.of(wanted, run.of_packs(wanted), whole=())
            del run  # one at a time in memory

    def _directories(self, unknown: set[str], coverage: Coverage, unreached: list[BackendError]) -> Iterator[Segment]:
        """What packs say themselves that no run covers."""
        for pack in sorted(unknown - coverage.whole()):
            try:
                # who put a run had put its packs durably before; of a pack in no run that is not sure yet
                self._backend.make_durable([pack_object(pack)])
                entries = read_directory(self._backend, self._keyring, pack)
            except (IntegrityError, BackendError) as error:
                _log.warning("%s; the pack is left out", error)
                if isinstance(error, BackendError) and not isinstance(error, ObjectNotFound):
                    unreached.append(error)
            else:
                yield Segment.of((pack,), entries)

    def _new_runs(self) -> Iterator[tuple[str, Run]]:
        """The runs not read yet; listed again while some vanish, since then there is one that supersedes them."""
        tried = set(self._runs_read)
        for _ in range(_LISTINGS):
            vanished = False
            for name in sorted({item.name for item in self._backend.list("index/")} - tried):
                tried.add(name)
                try:
                    yield name, get_run(self._backend, self._keyring, name)
                except ObjectNotFound:
                    vanished = True
                except IntegrityError as error:
                    _log.warning("%s; reading the packs' own directories instead", error)
            if not vanished:
                break

    def _joined(
        self, segments: Sequence[Segment], *, whole: frozenset[str] = frozenset(), runs: frozenset[str] = frozenset()
    ) -> list[Segment]:
        """These as one, or as they are when the local disk takes no more."""
        runs = runs.union(*(segment.runs for segment in segments))
        try:
            return [self._merger.join(segments, self._standing.exists, whole=whole, runs=runs)]
        except OSError as error:
            _log.warning("the local copy of the index cannot be written: %s", error)
            return list(segments)

    def _lose(self, segment: Segment) -> None:
        """Learn again what a rotten file held."""
        _log.warning("%s", SegmentRotten(segment))
        with self._lock:
            kept = [each.segment for each in self._judged if each.segment is not segment]
            self._judged, self._covered, self._runs_read = [], set(self._recent_packs), set()
            for each in kept:
                self._take_in(each)
            self._runs_read = set()  # of a run only those packs were taken in that were not known yet
        with self._refreshing:
            self._learn()

    def forget(self) -> None:
        """Forget all that was learnt, local files too, and learn it anew from the repository."""
        with self._lock:
            old = self._segments()
            self._judged, self._covered, self._runs_read, self._named = [], set(), set(), set()
        for segment in old:
            segment.forget()
        with self._refreshing:
            self._learn()
        self.tidy()

    def add(self, pack: str, entries: Entries) -> None:
        """A pack of this process is durable; its entries' `pack` is 0."""
        with self._lock:
            self._standing.listed.add(pack)
            self._since_listing.add(pack)
            self._covered.add(pack)
            self._recent_packs[pack] = entries
            for identity, _, *place in entries.tolist():
                self._recent[ChunkId(identity)] = Location(pack, *place)
            if len(self._recent) > _RECENT_LIMIT:
                self._freeze()

    def _freeze(self) -> None:
        """Turn what is recent into a segment: every copy, also of a chunk that several packs hold."""
        if self._recent_packs:
            parts = [np.array(entries) for entries in self._recent_packs.values()]
            for number, part in enumerate(parts):
                part["pack"] = number
            self._take_in(Segment.of(list(self._recent_packs), np.concatenate(parts)))
            self._recent_packs, self._recent = {}, {}

    # -------------------------------------------------------------------------------------------- keeping segments few

    def tidy(self) -> None:
        """Merge segments of like size, and write to the cache what is in memory. Look-ups go on meanwhile."""
        if not self._looked or not self._tidying.acquire(blocking=False):
            return
        try:
            while (group := self._group()) and self._replace(group):
                pass
        finally:
            self._tidying.release()

    def _group(self) -> list[Segment]:
        """Segments to merge now: of like size, or one that is mostly dead, or too large to be kept in memory."""
        with self._lock:
            judged = self._judged
        group = [judged[at].segment for at in like_sized([len(each.segment) for each in judged])]
        if group:
            return group
        for each in judged:
            unsaved = self._merger.folder and each.segment.path is None and len(each.segment) > _RECENT_LIMIT
            if unsaved or each.mostly_gone:
                return [each.segment]
        return []

    def _replace(self, group: Sequence[Segment]) -> bool:
        """Put one segment in the place of several; False when there was no room for it, or one of them is gone."""
        try:
            joined = self._joined(group)
        except SegmentRotten as error:
            self._lose(error.segment)
            return False
        if len(joined) > 1 or joined[0] in group:
            return False
        with self._lock:
            present = [each.segment for each in self._judged]
            if not all(each in present for each in group):
                joined[0].forget()
                return False
            self._judged = [each for each in self._judged if each.segment not in group]
            self._take_in(joined[0])
        for each in group:
            each.forget()
        return True

    # -------------------------------------------------------------------------------------------- asking

    def look_up(self, ids: Sequence[ChunkId], *, for_writing: bool = False) -> list[Location | None]:
        """The best copy of each chunk, None where there is none; to a writer condemned and damaged ones are none."""
        worst = Rank.GOOD if for_writing else Rank.DAMAGED
        return self._sound(lambda: self._best(ids).locations(worst))

    def exist(self, ids: Sequence[ChunkId]) -> list[bool]:
        """Which chunks a writer may rely on."""
        return self._sound(lambda: [rank == Rank.GOOD for rank in self._best(ids).ranks.tolist()])

    def readable(self, ids: Sequence[ChunkId]) -> list[bool]:
        """Which chunks have a copy that is there and not known to be damaged, be it condemned."""
        return self._sound(lambda: [rank < Rank.DAMAGED for rank in self._best(ids).ranks.tolist()])

    def only_damaged(self, ids: Sequence[ChunkId]) -> list[bool]:
        """Which chunks are there in copies that are known to be damaged, and in no other."""
        return self._sound(lambda: [rank == Rank.DAMAGED for rank in self._best(ids).ranks.tolist()])

    def _sound(self, ask: Callable[[], T]) -> T:
        """What is answered when all local files that were asked are what was written."""
        while True:
            try:
                return ask()
            except SegmentRotten as error:
                self._lose(error.segment)

    def _best(self, ids: Sequence[ChunkId]) -> Search:
        with self._lock:  # segments do not change, and are searched without it
            judged, standing = self._judged, self._standing
            known = {at: place for at, chunk in enumerate(ids) if (place := self._recent.get(chunk))}
            recent = {at: (place, standing.of(place)) for at, place in known.items()}
        return Search.among(judged, ids, recent)

    def copies(self, chunk: ChunkId) -> list[Location]:
        """Every copy of a chunk that exists, the best first."""

        def found() -> list[Location]:
            with self._lock:
                self._freeze()
                judged, standing = self._judged, self._standing
            ids = as_ids([chunk])
            rows = [(each, each.segment.find(ids)[1]) for each in judged]
            places = dict.fromkeys(place for each, found in rows for place in each.segment.locations(found))
            return sorted((place for place in places if standing.exists(place.pack)), key=standing.of)

        return self._sound(found)

    def census(self) -> Census:
        """Everything known by now, for a collector."""
        for rotten in [segment for segment in self._segments() if segment.rotten]:
            self._lose(rotten)
        with self._lock:
            segments, packs = self._segments(), self.packs
            return Census.of(segments, sorted(packs), packs - self._covered)

    def _segments(self) -> list[Segment]:
        """All that is known, the recent too."""
        with self._lock:
            self._freeze()
            return [each.segment for each in self._judged]

    @property
    def packs(self) -> frozenset[str]:
        """The packs that exist."""
        with self._lock:
            return frozenset(self._standing.listed - self._standing.swept)

    @property
    def unaccounted(self) -> frozenset[str]:
        """Packs that runs tell of, that were not listed and are not known to be swept."""
        with self._lock:
            return frozenset(self._named.union(self._covered) - self._standing.listed - self._standing.swept)

    @property
    def damaged(self) -> Mapping[str, Slots]:
        """The copies that count as damaged, by pack; of those in swept packs nobody needs to know."""
        with self._lock:
            known, swept = self._standing.damaged, self._standing.swept
        return {pack: slots for pack, slots in known.items() if pack not in swept}

    def chunks_of(self, pack: str) -> set[ChunkId]:
        """What a pack is known to hold."""

        def held() -> set[ChunkId]:
            segments = [segment for segment in self._segments() if pack in segment.packs]
            return {ChunkId(chunk) for segment in segments for chunk in segment.ids_in(pack)}

        return self._sound(held)

    def totals(self) -> tuple[int, int]:
        """Distinct chunks that exist: their number and plain bytes."""

        def counted() -> tuple[int, int]:
            numbers = {pack: number for number, pack in enumerate(self.packs)}
            count = plain_bytes = 0
            for rows in in_order(self._segments(), numbers):
                distinct = one_of_each(rows)
                count += len(distinct)
                plain_bytes += int(distinct["plain"].sum(dtype=np.uint64))
            return count, plain_bytes

        return self._sound(counted)
