"""What verification has read, and when, kept in the repository: so it goes on where it was stopped, and begins with
what was read longest ago.

Owns: FORMAT.md, "Marks", `verified`. A record that does not open, or cannot be put, costs reading packs again, no more.
Does not own: reading (verify).

A mark's name is `marks/verified-<generation, 8 digits>-<16 hex>`. The first one that a run puts is of a generation
above all there are, and says all that they say and is still of use; those that follow in that run are of that
generation. So whoever collects may delete every such mark of a generation below the highest.
"""

import logging
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from offhost.backend.contract import Backend
from offhost.clock import Clock
from offhost.errors import BackendError, IntegrityError, PackCorrupt
from offhost.repository.keys.keyring import Keyring
from offhost.repository.objects.sealed import ObjectType, get_json, seal_json

_log = logging.getLogger(__name__)

_NAME = re.compile(r"marks/verified-([0-9]{8})-[0-9a-f]{16}")
_PREFIX_DIGITS = 16
"""Enough of a pack's name: two packs that share it are, at worst, read later or sooner than they should."""
_LIMIT_PACKS = 1_500_000


def superseded(backend: Backend) -> list[str]:
    """The names of the marks that a later generation repeats: for a collector to delete."""
    names = [(found[1], item.name) for item in backend.list("marks/") if (found := _NAME.fullmatch(item.name))]
    latest = max((generation for generation, _ in names), default="")
    return [name for generation, name in names if generation < latest]


@dataclass(slots=True)
class Ledger:
    """When each pack was read last. For one thread."""

    _backend: Backend
    _keyring: Keyring
    _clock: Clock
    _read_at: dict[str, int] = field(default_factory=dict)
    """By the beginning of a pack's name, seconds since 1970."""
    _fresh: set[str] = field(default_factory=set)
    _generation: int | None = None
    _usable: bool = True
    begun: int | None = None
    """When the verification of everything that is under way was begun, in seconds since 1970; None when none is."""

    @classmethod
    def load(cls, backend: Backend, keyring: Keyring, clock: Clock) -> "Ledger":
        """All that the marks say; one that does not open is logged and says nothing."""
        ledger = cls(backend, keyring, clock)
        done: dict[int, bool] = {}
        for _, name in ledger._names():
            try:
                mark = get_json(backend, keyring, ObjectType.MARK, name)
                ledger._learn(name, mark)
            except (IntegrityError, BackendError) as error:
                _log.warning("%s; what it says was verified is verified again", error)
                continue
            if isinstance(begun := mark.get("begun"), int):
                done[begun] = done.get(begun, False) or mark.get("done") is True
        latest = max(done, default=None)
        ledger.begun = latest if latest is not None and not done[latest] else None
        return ledger

    def _names(self) -> list[tuple[int, str]]:
        listed = (item.name for item in self._backend.list("marks/"))
        return [(int(found[1]), name) for name in listed if (found := _NAME.fullmatch(name))]

    def _learn(self, name: str, mark: Mapping[str, Any]) -> None:
        read = mark.get("read")
        if not isinstance(read, dict) or not all(map(_is_entry, read.items())):
            raise PackCorrupt(f"{name}: not a record of verification")
        for second, prefixes in read.items():
            for at in range(0, len(prefixes), _PREFIX_DIGITS):
                prefix = prefixes[at : at + _PREFIX_DIGITS]
                self._read_at[prefix] = max(int(second), self._read_at.get(prefix, 0))

    def read_at(self, pack: str) -> int:
        """When a pack was read last, in seconds since 1970; 0 when it never was."""
        return self._read_at.get(pack[:_PREFIX_DIGITS], 0)

    def add(self, pack: str) -> None:
        """A pack has just been read; what is wrong with it is marked as damage."""
        prefix = pack[:_PREFIX_DIGITS]
        self._read_at[prefix] = self.now()
        self._fresh.add(prefix)

    def now(self) -> int:
        """Seconds since 1970."""
        return int(self._clock.now().timestamp())

    def save(self, packs: Iterable[str], *, done: bool = False) -> None:
        """Put down what was read since the last time; `packs` are those that there are.

        A failure to do so is logged, once: reading goes on without.
        """
        if not self._usable or not (self._fresh or done):
            return
        if self._generation is None:
            self._generation = max((generation for generation, _ in self._names()), default=0) + 1
            self._fresh |= {pack[:_PREFIX_DIGITS] for pack in packs} & self._read_at.keys()
        name = f"marks/verified-{self._generation:08d}-{secrets.token_hex(8)}"
        value: dict[str, Any] = {"read": self._by_second()}
        if self.begun is not None:
            value |= {"begun": self.begun, "done": done}
        try:
            self._backend.put(name, seal_json(self._keyring, ObjectType.MARK, name, value))
        except BackendError as error:
            _log.warning("what was verified is not remembered: %s", error)
            self._usable = False
            return
        self._fresh = set()

    def _by_second(self) -> dict[str, str]:
        """The fresh ones, the latest first, as many as a mark holds."""
        latest = sorted(self._fresh, key=self._read_at.__getitem__, reverse=True)[:_LIMIT_PACKS]
        found: dict[str, list[str]] = {}
        for prefix in latest:
            found.setdefault(str(self._read_at[prefix]), []).append(prefix)
        return {second: "".join(sorted(prefixes)) for second, prefixes in found.items()}


def _is_entry(entry: tuple[object, object]) -> bool:
    second, prefixes = entry
    return isinstance(second, str) and second.isdecimal() and len(second) < 12 and isinstance(prefixes, str)
