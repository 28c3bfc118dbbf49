"""Few large index runs in place of many small ones.

Owns: which runs are merged, and that at every step every chunk stays known. Does not own: a run's form (runs), when
this is done (collect).

What is superseded is deleted only when all that supersedes it is there. Writers, readers and other consolidations may
be at work: losing a run costs time, never a chunk, since a pack that no run covers is read by its directory; and of two
groups of runs that cover the same, every consolidation takes the same one for the useless one.
"""

import logging
import secrets
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from offhost.errors import BackendError, IntegrityError, ObjectNotFound
from offhost.repository.chunks.packs import read_directory
from offhost.repository.chunks.runs import RUN_ENTRIES, Run, Shard, complete, get_head, get_run, put_run
from offhost.repository.chunks.segments import Merger, Segment, in_order
from offhost.repository.chunks.store import ChunkStore
from offhost.repository.chunks.tiers import like_sized

_log = logging.getLogger(__name__)

_UNCOVERED_AT_ONCE = 256
"""Packs that are covered anew at a time: those of a backup that is running will be covered by itself."""


@dataclass(frozen=True, slots=True)
class Consolidated:
    """What was done: runs put and their entries, runs deleted."""

    put: int = 0
    entries: int = 0
    deleted: int = 0


@dataclass(slots=True)
class _Group:
    """Runs of one set of packs and one number of shards; a run that is not sharded is one by itself."""

    packs: tuple[str, ...]
    runs: dict[Shard, str] = field(default_factory=dict)
    spare: set[str] = field(default_factory=set)
    size_bytes: int = 0

    def add(self, shard: Shard, name: str) -> None:
        """One more run; of two that say the same the second by name is spare."""
        known = self.runs.get(shard, name)
        self.runs[shard] = min(known, name)
        self.spare |= {known, name} - {self.runs[shard]}

    @property
    def whole(self) -> bool:
        return complete(set(self.runs))

    def rank(self, live: frozenset[str]) -> tuple[int, int, str]:
        """Of two groups that cover the same, the one of lower rank is useless: an order that all who look agree on."""
        return len(live.intersection(self.packs)), -len(self.packs), min(self.runs.values())


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is merged, what is covered anew by its directory, which runs are useless then."""

    merged: tuple[_Group, ...]
    uncovered: tuple[str, ...]
    useless: frozenset[str]
    left: int
    """Packs that stay uncovered."""


def consolidate_runs(store: ChunkStore, *, unreadable_too: bool = False) -> Consolidated:
    """Merge runs of like size, drop the entries of packs that are gone, cover packs that no run covers.

    Idempotent; stopped at any step it harms nothing, and the next one goes on. Runs that do not open are kept, unless
    `unreadable_too`: then all packs are covered anew that they might have covered, and they go when that is done.
    Raises: IntegrityError, BackendError.
    """
    store.refresh(for_writing=True)
    live = store.index.packs
    groups, unreadable = _surveyed(store)
    plan = _planned(groups, live, cover=len(live) if unreadable_too else _UNCOVERED_AT_ONCE)
    try:
        put, entries = _put(store, plan, live)
    except (OSError, ObjectNotFound) as error:  # no room here, or another consolidation was faster
        _log.warning("the index runs stay as they are: %s", error)
        return Consolidated()
    if not put <= {item.name for item in store.backend.list("index/")}:
        return Consolidated(len(put), entries)  # another one has superseded them already, and deletes what it must
    gone = plan.useless | (unreadable if unreadable_too and not plan.left else frozenset())
    for name in sorted(gone):
        store.backend.delete(name)
    return Consolidated(len(put), entries, len(gone))


def _surveyed(store: ChunkStore) -> tuple[list[_Group], frozenset[str]]:
    """All runs by what they cover, and those that do not open."""
    groups: dict[tuple[tuple[str, ...], int, str], _Group] = {}
    unreadable: set[str] = set()
    for item in store.backend.list("index/"):
        try:
            packs, shard = get_head(store.backend, store.keyring, item.name)
        except ObjectNotFound:
            continue
        except IntegrityError as error:
            _log.warning("%s", error)
            unreadable.add(item.name)
            continue
        alone = "" if shard.bits else item.name
        group = groups.setdefault((packs, shard.bits, alone), _Group(packs))
        group.add(shard, item.name)
        group.size_bytes += item.size_bytes
    return list(groups.values()), frozenset(unreadable)


def _planned(groups: Sequence[_Group], live: frozenset[str], *, cover: int) -> _Plan:
    covered: set[str] = set()
    kept: list[_Group] = []
    useless = {name for group in groups for name in group.spare}
    for group in sorted((each for each in groups if each.whole), key=lambda each: each.rank(live), reverse=True):
        own = live.intersection(group.packs)
        if own <= covered:
            useless.update(group.runs.values())
        else:
            kept.append(group)
            covered |= own
    uncovered = sorted(live - covered)
    chosen = {id(kept[at]) for at in like_sized([each.size_bytes for each in kept])}
    merged = [each for each in kept if id(each) in chosen or _mostly_dead(each, live)]
    if merged or uncovered:  # with them go the pieces that another consolidation has left, having died
        rest = [each for each in groups if not each.whole]
        useless.update(name for each in (*merged, *rest) for name in each.runs.values())
    now, later = uncovered[:cover], uncovered[cover:]
    return _Plan(tuple(merged), tuple(now), frozenset(useless), len(later))


def _mostly_dead(group: _Group, live: frozenset[str]) -> bool:
    return 2 * len(live.intersection(group.packs)) < len(group.packs)


def _put(store: ChunkStore, plan: _Plan, live: frozenset[str]) -> tuple[set[str], int]:
    """The runs that take the place of what the plan merges, and their entries. Memory is bounded."""
    if not plan.merged and not plan.uncovered:
        return set(), 0
    with ExitStack() as scope:
        folder = store.cache or Path(scope.enter_context(tempfile.TemporaryDirectory(prefix="offhost-")))
        merger = Merger(folder, secrets.token_bytes(32))
        segments = merger.gather(_parts(store, plan, live), live.__contains__)
        packs = tuple(sorted({pack for segment in segments for pack in segment.packs}))
        numbers = {pack: number for number, pack in enumerate(packs)}
        bits = max(0, (-(-sum(map(len, segments)) // RUN_ENTRIES) - 1).bit_length())
        put: set[str] = set()
        entries = 0
        for prefix, rows in enumerate(in_order(segments, numbers, bits) if packs else ()):
            run = Run(packs, rows, Shard(bits, prefix))
            put.add(put_run(store.backend, store.keyring, run, plan.useless))
            entries += len(rows)
        return put, entries


def _parts(store: ChunkStore, plan: _Plan, live: frozenset[str]) -> Iterator[Segment]:
    """Everything that the new runs are to say, piece by piece."""
    for name in _names(plan.merged):
        run = get_run(store.backend, store.keyring, name)
        wanted = [pack for pack in run.packs if pack in live]
        yield Segment.of(wanted, run.of_packs(wanted))
        del run  # one at a time in memory
    for pack in plan.uncovered:
        try:
            yield Segment.of((pack,), read_directory(store.backend, store.keyring, pack))
        except (IntegrityError, BackendError) as error:
            _log.warning("%s; no index run covers the pack", error)


def _names(groups: Iterable[_Group]) -> Iterator[str]:
    for group in groups:
        yield from group.runs.values()
