"""The chunk store of an open repository: index, claims and packer, as one.

Owns: how they are joined, and that every new pack comes to be covered by an index run.
"""

import json
import logging
import os
import threading
from pathlib import Path

import blake3
import numpy as np

from offhost.backend.contract import Backend
from offhost.errors import ObjectNotFound, OffhostError
from offhost.ids import ChunkId
from offhost.repository.chunks.claims import ClaimTable
from offhost.repository.chunks.hands import Hands
from offhost.repository.chunks.index import Index
from offhost.repository.chunks.packer import Packer
from offhost.repository.chunks.packs import ENTRY, Entries, pack_object
from offhost.repository.chunks.runs import RUN_ENTRIES, Run, put_run
from offhost.repository.keys.keyring import Keyring
from offhost.repository.objects.graves import Graveyard
from offhost.repository.objects.marks import Marks

_log = logging.getLogger(__name__)


class ChunkStore:
    """Thread-safe; one for each repository that a process has open."""

    def __init__(
        self, backend: Backend, keyring: Keyring, *, graveyard: Graveyard, marks: Marks, cache: Path | None
    ) -> None:
        cache = _writable(cache) if cache else None
        self.backend, self.keyring, self.cache = backend, keyring, cache
        self._graveyard, self._marks = graveyard, marks
        self.metadata_id_key = keyring.metadata_id_key()
        self.index = Index(backend, keyring, cache)
        self.claims = ClaimTable(self.index.exist)
        self.hands = Hands()
        self.packer = Packer(backend, keyring, self.index, self.claims)
        self._refreshing = threading.Lock()
        self._condemned: frozenset[str] = frozenset()

    def not_there(self, chunks: set[ChunkId]) -> set[ChunkId]:
        """Those of the chunks that do not exist."""
        ids = list(chunks)
        return {chunk for chunk, there in zip(ids, self.index.exist(ids), strict=True) if not there}

    def refresh(self, *, for_writing: bool) -> None:
        """Learn what other processes have stored, condemned and swept, and what is damaged.

        Raises: IntegrityError for a writer who could not be told; a reader goes on with what can be read.
        """
        with self._refreshing:  # an older look must not be applied over a newer one
            self._look(for_writing)
            vanished = self.vanished()
            for pack in sorted(vanished):
                _log.warning("%s has vanished; `offhost repo verify` tells what it harms", pack_object(pack))
            if for_writing and self.mark_vanished(vanished):
                self._look(for_writing)

    def _look(self, for_writing: bool) -> None:
        graves = self._graveyard.read() if for_writing else self._graveyard.read_tolerant()
        # a reader may miss a verdict; writers of this process must not rely again on what they were told to leave
        self._condemned = graves.condemned if for_writing else graves.condemned | self._condemned
        self.index.refresh(self._condemned, graves.swept, self._marks.damaged(strict=for_writing))

    def vanished(self) -> set[str]:
        """Packs that runs tell of, that are not there, that no collector took, and of which no mark says so yet."""
        known = self.index.damaged
        absent = {pack for pack in self.index.unaccounted if known.get(pack, "") is not None and self._is_absent(pack)}
        return absent - self._graveyard.read_tolerant().swept if absent else absent

    def _is_absent(self, pack: str) -> bool:
        """Not there now either: one that was put after the packs were listed is."""
        try:
            self.backend.size(pack_object(pack))
        except ObjectNotFound:
            return True
        return False

    def mark_vanished(self, packs: set[str]) -> bool:
        """Mark packs as damaged whole, so that whatever a process knows of them, it knows that they are gone.

        Not when most have vanished: then it is likelier that they lie on something that is not mounted, and marks are
        for ever. Returns whether they were marked. Raises: BackendError.
        """
        if not packs or len(packs) > len(self.index.packs):
            return False
        for pack in sorted(packs):
            self._marks.damage(pack, None, "vanished")
        return True

    def mark_distrusted(self) -> None:
        """Mark the copies that failed their checks in this process. Raises: BackendError."""
        if not (distrusted := self.index.distrusted):
            return
        marked = self._marks.damaged()
        fresh: dict[str, dict[int, str]] = {}
        for copy, what in distrusted.items():
            known = marked.get(copy.pack, frozenset())
            if known is not None and copy.slot not in known:
                fresh.setdefault(copy.pack, {})[copy.slot] = what
        for pack, slots in fresh.items():
            self._marks.damage(pack, frozenset(slots), next(iter(slots.values())))

    def damage_known(self) -> str:
        """What tells the damage that is known from other damage; empty when none is."""
        known = {pack: None if slots is None else sorted(slots) for pack, slots in self.index.damaged.items()}
        known |= dict.fromkeys(self.index.unaccounted)
        return blake3.blake3(json.dumps(known, sort_keys=True).encode()).hexdigest(16) if known else ""

    def cover_new_packs(self) -> None:
        """Put index runs for the packs that are durable and in none yet."""
        packs = self.packer.take_unindexed()
        try:
            for run in _runs(packs):
                put_run(self.backend, self.keyring, run)
        except BaseException:
            self.packer.give_back_unindexed(packs)
            raise

    def close(self) -> None:
        """Wait for what is on its way, and cover it as far as possible: it may be of sessions that were aborted."""
        self.packer.close()
        try:
            self.cover_new_packs()
        except OffhostError as error:
            _log.warning("the last packs are in no index run, and are read by their directories: %s", error)


def _writable(cache: Path) -> Path | None:
    """A folder for local copies, made where it lacks; None where nothing can be written: it only costs time."""
    try:
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.access(cache, os.W_OK | os.X_OK):
            return cache
        reason = "not writable"
    except OSError as error:
        reason = error.strerror or str(error)
    _log.warning("%s: %s; no local copy of the index is kept, which is therefore read anew each time", cache, reason)
    return None


def _runs(packs: dict[str, Entries]) -> list[Run]:
    """Whole packs in runs of bounded size."""
    runs: list[Run] = []
    names: list[str] = []
    parts: list[Entries] = []
    for name, entries in packs.items():
        if parts and sum(map(len, parts)) + len(entries) > RUN_ENTRIES:
            runs.append(Run(tuple(names), np.concatenate(parts)))
            names, parts = [], []
        part = np.array(entries, ENTRY)
        part["pack"] = len(names)
        names.append(name)
        parts.append(part)
    if parts:
        runs.append(Run(tuple(names), np.concatenate(parts)))
    return runs
