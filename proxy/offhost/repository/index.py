"""Which chunks exist, and where: a cache over what the packs themselves say.

Owns: the view of packs that exist, are condemned or swept; loading runs, and directories of packs that no run covers;
batch look-ups. Does not own: the runs' format (runs), arrays (segments).
"""

import logging
import re
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from offhost.backend.contract import Backend
from offhost.errors import BackendError, IntegrityError, ObjectNotFound
from offhost.ids import ChunkId
from offhost.repository.keys import Keyring
from offhost.repository.packs import Entries, Location, read_directory
from offhost.repository.runs import Run, get_run
from offhost.repository.segments import Segment, id_keys, load, merged

_log = logging.getLogger(__name__)

_PACK = re.compile(r"packs/[0-9a-f]{2}/([0-9a-f]{64})")
_RECENT_LIMIT = 100_000
_SEGMENT_LIMIT = 8


class Index:
    """Chunk id to location. Thread-safe.

    Invariant: a pack in `_covered` has all its chunks in a segment or among the recent; a location is only given out
    for a pack that was listed and is not swept.
    """

    def __init__(self, backend: Backend, keyring: Keyring, cache: Path | None) -> None:
        self._backend, self._keyring, self._cache = backend, keyring, cache
        self._lock = threading.RLock()
        self._segments: list[Segment] = []
        self._recent: dict[ChunkId, Location] = {}
        self._recent_packs: dict[str, Entries] = {}
        self._since_listing: set[str] = set()
        self._covered: set[str] = set()
        self._listed: set[str] = set()
        self._gone: frozenset[str] = frozenset()
        self._condemned: frozenset[str] = frozenset()
        self._runs_read: set[str] = set()
        if cache:
            cache.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._segments = [segment for path in sorted(cache.glob("*.seg")) if (segment := load(path))]
            self._covered = {pack for segment in self._segments for pack in segment.packs}

    def refresh(self, condemned: frozenset[str], swept: frozenset[str]) -> None:
        """List the packs anew and learn what they hold; one at a time (the caller sees to it).

        A pack that cannot be read is logged and holds nothing: what needs it will say so, and verification names it.
        `condemned` packs stay readable and hold nothing for a writer; `swept` ones are gone.
        """
        with self._lock:
            self._since_listing = set()
        listed = {found[1] for item in self._backend.list("packs/") if (found := _PACK.fullmatch(item.name))}
        with self._lock:
            listed |= self._since_listing
            self._listed, self._condemned, self._gone = listed, condemned, swept
            unknown = listed - self._covered - swept
            if unknown:
                self._learn(unknown)

    def _learn(self, unknown: set[str]) -> None:
        names = {item.name for item in self._backend.list("index/")} - self._runs_read
        runs = []
        for name in sorted(names):
            try:
                run = get_run(self._backend, self._keyring, name)
            except ObjectNotFound:
                continue  # superseded and collected since it was listed
            except IntegrityError as error:
                _log.warning("%s; reading the packs' own directories instead", error)
                self._runs_read.add(name)
                continue
            self._runs_read.add(name)
            if run.shard_bits == 0 and unknown.intersection(run.packs):
                runs.append(run)
        covered = {pack for run in runs for pack in run.packs}
        runs.extend(filter(None, map(self._directory, sorted(unknown - covered))))
        self._adopt(runs)

    def _directory(self, pack: str) -> Run | None:
        try:
            return Run((pack,), read_directory(self._backend, self._keyring, pack))
        except (IntegrityError, BackendError) as error:
            _log.warning("%s; the pack is left out", error)
            return None

    def _adopt(self, runs: Sequence[Run]) -> None:
        if not runs:
            return
        segment = merged([Segment.of(run.packs, run.entries) for run in runs])
        self._segments.append(segment.save(self._cache) if self._cache else segment)
        self._covered.update(segment.packs)
        if len(self._segments) > _SEGMENT_LIMIT:
            self._merge()

    def _merge(self) -> None:
        """Merge the small ones; the largest too once the others together weigh half as much."""
        self._segments.sort(key=len)
        *small, largest = self._segments
        spared = [largest] if sum(map(len, small)) * 2 <= len(largest) else []
        old = small if spared else self._segments
        segment = merged(old)
        self._segments = [segment.save(self._cache) if self._cache else segment, *spared]
        for each in old:
            each.forget()

    def add(self, pack: str, entries: Entries) -> None:
        """A pack of this process is durable; its entries' `pack` is 0."""
        with self._lock:
            self._listed.add(pack)
            self._since_listing.add(pack)
            self._covered.add(pack)
            self._recent_packs[pack] = entries
            for entry in entries.tolist():
                identity, _, *place = entry
                self._recent[ChunkId(identity)] = Location(pack, *place)
            if len(self._recent) > _RECENT_LIMIT:
                self._freeze()

    def _freeze(self) -> None:
        """Turn what is recent into a segment: every copy, also of a chunk that several packs hold."""
        self._adopt([Run((pack,), entries) for pack, entries in self._recent_packs.items()])
        self._recent_packs, self._recent = {}, {}

    def look_up(self, ids: Sequence[ChunkId], *, for_writing: bool = False) -> list[Location | None]:
        """Where each chunk lies, None where it does not exist; a writer does not see condemned packs."""
        with self._lock:
            barred = self._gone | self._condemned if for_writing else self._gone
            found: list[Location | None] = [self._usable(self._recent.get(chunk), barred) for chunk in ids]
            for segment in self._segments:
                open_ids = [at for at, location in enumerate(found) if location is None]
                if not open_ids:
                    break
                wanted = [ids[at] for at in open_ids]
                for at, location in zip(open_ids, self._search(segment, wanted, barred), strict=True):
                    found[at] = location
            return found

    def _search(self, segment: Segment, wanted: Sequence[ChunkId], barred: frozenset[str]) -> Iterable[Location | None]:
        keys = id_keys(np.frombuffer(b"".join(wanted), "V32"))
        for chunk, key, start in zip(wanted, keys.tolist(), segment.find(keys).tolist(), strict=True):
            found = None
            at = start
            while found is None and at < len(segment) and int(segment.keys[at]) == key:
                identity, pack, *place = segment.entries[at].item()
                if identity == chunk:
                    found = self._usable(Location(segment.packs[pack], *place), barred)
                at += 1
            yield found

    def _usable(self, location: Location | None, barred: frozenset[str]) -> Location | None:
        return location if location and location.pack in self._listed and location.pack not in barred else None

    @property
    def packs(self) -> frozenset[str]:
        """The packs that exist."""
        with self._lock:
            return frozenset(self._listed - self._gone)

    def chunks_of(self, pack: str) -> set[ChunkId]:
        """What a pack is known to hold."""
        with self._lock:
            found = {chunk for chunk, at in self._recent.items() if at.pack == pack}
            for segment in self._segments:
                if pack in segment.packs:
                    rows = segment.entries[segment.entries["pack"] == segment.packs.index(pack)]
                    found.update(ChunkId(row) for row in rows["id"].tolist())
            return found

    def totals(self) -> tuple[int, int]:
        """Distinct chunks that exist: their number and plain bytes."""
        with self._lock:
            if self._recent:
                self._freeze()
            everything = merged(self._segments)
            exists = np.array([pack in self._listed and pack not in self._gone for pack in everything.packs], np.bool_)
            entries = everything.entries[exists[everything.entries["pack"]]] if len(everything) else everything.entries
            _, first = np.unique(entries["id"].view("S32"), return_index=True)
            return len(first), int(entries["plain"][first].sum(dtype=np.uint64))
