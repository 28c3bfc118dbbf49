"""Whether the index runs say of packs what these say themselves.

Owns: the comparison, by fingerprints of the directories, so that neither runs nor directories are held in memory
together. Does not own: the runs' format (runs), reading directories (checking), making the runs anew (rebuild).
"""

import secrets
import threading
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offhost.backend.contract import Backend
from offhost.errors import BackendError, IntegrityError, ObjectNotFound
from offhost.repository.chunks.packs import Entries, pack_object
from offhost.repository.chunks.rows import key_column, word_column
from offhost.repository.chunks.runs import Run, get_run
from offhost.repository.keys.keyring import Keyring

_PREFIX_BITS = 8
"""Runs of finer shards, which nobody writes, are not compared."""
_NAMED = 4

Words = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class IndexSurvey:
    """The packs that the runs name, and the runs that are wrong, with what is wrong with each."""

    packs: frozenset[str]
    wrong: dict[str, str]


class Agreement:
    """Fingerprints of the directories that were read. `learn` is thread-safe."""

    def __init__(self) -> None:
        self._odd = np.frombuffer(secrets.token_bytes(8 * 8), np.uint64) | np.uint64(1)
        self._directories: dict[str, Words] = {}
        self._lock = threading.Lock()

    def learn(self, pack: str, directory: Entries) -> None:
        """A pack's own word."""
        prints = self._prints(directory, 1)[0]
        with self._lock:
            self._directories[pack] = prints

    def survey(self, backend: Backend, keyring: Keyring) -> IndexSurvey:
        """Read every run, one at a time, and compare. What a wrong run names is not believed to have been there."""
        wrong: dict[str, str] = {}
        packs: set[str] = set()
        for name in sorted(item.name for item in backend.list("index/")):
            try:
                run = get_run(backend, keyring, name)
            except ObjectNotFound:
                continue  # superseded since it was listed
            except (IntegrityError, BackendError) as error:
                wrong[name] = str(error)
                continue
            if lied := self._lied_of(run):
                some = ", ".join(map(pack_object, lied[:_NAMED])) + (" and others" if len(lied) > _NAMED else "")
                wrong[name] = f"{name}: says of {some} what their directories do not"
            else:
                packs.update(run.packs)
        return IndexSurvey(frozenset(packs), wrong)

    def _lied_of(self, run: Run) -> list[str]:
        """The packs of which a run says something else than their directories, among those that were read."""
        if run.shard.bits > _PREFIX_BITS:
            return []
        prints = self._prints(run.entries, len(run.packs))
        spread = 1 << _PREFIX_BITS - run.shard.bits
        own = slice(run.shard.prefix * spread, (run.shard.prefix + 1) * spread)
        known = ((number, pack, self._directories.get(pack)) for number, pack in enumerate(run.packs))
        return [
            pack
            for number, pack, directory in known
            if directory is not None and not np.array_equal(prints[number][own], directory[own])
        ]

    def _prints(self, entries: Entries, packs: int) -> Words:
        """For each pack and each prefix of ids the sum of its entries' hashes, so that their order does not matter."""
        sums = np.zeros((packs, 1 << _PREFIX_BITS), np.uint64)
        with np.errstate(over="ignore"):
            hashes = self._hashes(entries)
            prefixes = (key_column(entries) >> np.uint64(64 - _PREFIX_BITS)).astype(np.intp)
            np.add.at(sums, (entries["pack"].astype(np.intp), prefixes), hashes)
        return sums

    def _hashes(self, entries: Entries) -> Words:
        """A hash of each entry but for the pack's number; its odd numbers are this process's secret."""
        columns = [*word_column(entries).T]
        pairs = (("slot", "offset"), ("stored", "plain"), ("kind", "codec"))
        columns += [entries[high].astype(np.uint64) << np.uint64(32) | entries[low] for high, low in pairs]
        mixed = np.zeros(len(entries), np.uint64)
        for odd, column in zip(self._odd, columns, strict=False):
            mixed = (mixed ^ column) * odd
            mixed ^= mixed >> np.uint64(29)
        return mixed
