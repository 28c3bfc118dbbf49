"""The chunk store of an open repository: index, claims and packer, as one.

Owns: how they are joined, and that every new pack comes to be covered by an index run.
"""

import logging
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from offhost.backend.contract import Backend
from offhost.errors import OffhostError
from offhost.ids import ChunkId
from offhost.repository.claims import ClaimTable
from offhost.repository.graves import Graveyard
from offhost.repository.index import Index
from offhost.repository.keys import Keyring
from offhost.repository.marks import Marks
from offhost.repository.packer import Packer
from offhost.repository.packs import ENTRY, Entries
from offhost.repository.runs import RUN_LIMIT_ENTRIES, Run, put_run

_log = logging.getLogger(__name__)


class ChunkStore:
    """Thread-safe; one for each repository that a process has open."""

    def __init__(
        self, backend: Backend, keyring: Keyring, *, graveyard: Graveyard, marks: Marks, cache: Path | None
    ) -> None:
        self._backend, self._keyring, self._graveyard, self._marks = backend, keyring, graveyard, marks
        self.metadata_id_key = keyring.metadata_id_key()
        self.index = Index(backend, keyring, cache)
        self.claims = ClaimTable(self._exist)
        self.packer = Packer(backend, keyring, self.index, self.claims)
        self._refreshing = threading.Lock()

    def _exist(self, ids: Sequence[ChunkId]) -> list[bool]:
        return self.index.exist(ids)

    def not_there(self, chunks: set[ChunkId]) -> set[ChunkId]:
        """Those of the chunks that do not exist."""
        ids = list(chunks)
        return {chunk for chunk, there in zip(ids, self._exist(ids), strict=True) if not there}

    def refresh(self, *, for_writing: bool) -> None:
        """Learn what other processes have stored, condemned and swept, and what is damaged.

        Raises: IntegrityError for a writer who could not be told; a reader goes on with what can be read.
        """
        with self._refreshing:  # an older look must not be applied over a newer one
            graves = self._graveyard.read() if for_writing else self._graveyard.read_tolerant()
            damaged = self._marks.damaged(strict=for_writing)
            self.index.refresh(graves.condemned, graves.swept, damaged)

    def cover_new_packs(self) -> None:
        """Put index runs for the packs that are durable and in none yet."""
        packs = self.packer.take_unindexed()
        try:
            for run in _runs(packs):
                put_run(self._backend, self._keyring, run)
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


def _runs(packs: dict[str, Entries]) -> list[Run]:
    """Whole packs in runs of bounded size."""
    runs: list[Run] = []
    names: list[str] = []
    parts: list[Entries] = []
    for name, entries in packs.items():
        if parts and sum(map(len, parts)) + len(entries) > RUN_LIMIT_ENTRIES:
            runs.append(Run(tuple(names), np.concatenate(parts)))
            names, parts = [], []
        part = np.array(entries, ENTRY)
        part["pack"] = len(names)
        names.append(name)
        parts.append(part)
    if parts:
        runs.append(Run(tuple(names), np.concatenate(parts)))
    return runs
