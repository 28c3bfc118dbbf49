"""What collectors have decided: which packs and points are condemned, which are swept.

Owns: reading `condemned/` and `sweeps/` (FORMAT.md, "Collection"). Does not own: deciding (collect).
"""

import logging
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from offhost.backend.contract import Backend
from offhost.errors import BackendError, IntegrityError, PackCorrupt
from offhost.repository.keys.keyring import Keyring
from offhost.repository.objects.sealed import ObjectType, get_json

_log = logging.getLogger(__name__)

_PACK = re.compile(r"[0-9a-f]{64}")
_POINT = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Verdict:
    """A condemned list or a sweep: packs, and points by id."""

    packs: frozenset[str] = frozenset()
    points: frozenset[str] = frozenset()

    def to_json(self) -> dict[str, Any]:
        """The payload of its object."""
        return {"packs": sorted(self.packs), "points": sorted(self.points)}

    @classmethod
    def from_json(cls, name: str, value: dict[str, Any]) -> "Verdict":
        """Raises: PackCorrupt when it is not one: what it names is going to be deleted, so only ids are believed."""
        packs, points = value.get("packs"), value.get("points")
        if not _all_match(_PACK, packs) or not _all_match(_POINT, points):
            raise PackCorrupt(f"{name}: not a list of packs and points")
        return cls(frozenset(packs or ()), frozenset(points or ()))


def _all_match(form: re.Pattern[str], names: object) -> bool:
    return isinstance(names, list) and all(isinstance(name, str) and form.fullmatch(name) for name in names)


@dataclass(frozen=True, slots=True)
class Graves:
    """`condemned` packs stay readable and hold nothing for a writer; `swept` packs and points are gone for everyone."""

    condemned: frozenset[str] = frozenset()
    swept: frozenset[str] = frozenset()
    swept_points: frozenset[str] = frozenset()
    condemned_points: frozenset[str] = frozenset()


@dataclass(slots=True)
class Graveyard:
    """Reads the verdicts. Thread-safe. Objects never change, so each is read once."""

    _backend: Backend
    _keyring: Keyring
    _known: dict[str, Verdict] = field(default_factory=dict)

    def read(self) -> Graves:
        """What is condemned or swept, by now. Raises: IntegrityError: a writer or collector must not go on without."""
        return self._collected(self._verdict)

    def read_tolerant(self) -> Graves:
        """The same for those who only read points: what does not open is logged, and nothing counts as gone by it."""

        def verdict(kind: ObjectType, name: str) -> Verdict:
            try:
                return self._verdict(kind, name)
            except (IntegrityError, BackendError) as error:
                _log.warning("%s; restoring is possible, backing up and collecting are not", error)
                return Verdict()

        return self._collected(verdict)

    def _collected(self, verdict: Callable[[ObjectType, str], Verdict]) -> Graves:
        # condemned first: a list whose sweep comes between the two listings is then known as swept
        condemned, sweeps = self.numbers("condemned"), self.numbers("sweeps")
        standing = [verdict(ObjectType.CONDEMNED, f"condemned/{number}") for number in condemned - sweeps]
        executed = [verdict(ObjectType.SWEEP, f"sweeps/{number}") for number in sweeps]
        return Graves(
            condemned=_union(each.packs for each in standing),
            swept=_union(each.packs for each in executed),
            swept_points=_union(each.points for each in executed),
            condemned_points=_union(each.points for each in standing),
        )

    def numbers(self, folder: str) -> set[str]:
        """The generations there are of `condemned` or `sweeps`."""
        return {item.name.rpartition("/")[2] for item in self._backend.list(f"{folder}/")}

    def condemned(self, number: str) -> Verdict:
        """One condemned list. Raises: ObjectNotFound; IntegrityError."""
        return self._verdict(ObjectType.CONDEMNED, f"condemned/{number}")

    def sweep(self, number: str) -> Verdict:
        """One sweep. Raises: ObjectNotFound; IntegrityError."""
        return self._verdict(ObjectType.SWEEP, f"sweeps/{number}")

    def _verdict(self, kind: ObjectType, name: str) -> Verdict:
        known = self._known.get(name)
        if known is None:
            known = Verdict.from_json(name, get_json(self._backend, self._keyring, kind, name))
            self._known[name] = known
        return known


def _union(sets: Iterable[frozenset[str]]) -> frozenset[str]:
    return frozenset().union(*sets)
