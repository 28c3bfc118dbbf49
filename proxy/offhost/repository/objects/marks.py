"""Marks: what is said of points and packs after they were put: forgotten, pinned, damaged.

Owns: FORMAT.md, "Marks". Marks are put and never changed; a mark of a point or pack that is swept goes with it. Does
not own: who forgets what (expiry), what is damaged (verify), which marks may go (collect).
"""

import logging
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

from offhost.backend.contract import Backend
from offhost.clock import Clock, moment
from offhost.errors import BackendError, IntegrityError, ObjectExists, ObjectNotFound, OffhostError, PackCorrupt
from offhost.ids import SessionId
from offhost.repository.keys.keyring import Keyring
from offhost.repository.objects.sealed import ObjectType, get_json, seal_json

_log = logging.getLogger(__name__)

_FORGOTTEN = re.compile(r"marks/forgotten-([0-9a-f]{32})")
_PIN = re.compile(r"marks/pin-([0-9a-f]{32})")
_UNPIN = re.compile(r"marks/unpin-([0-9a-f]{32})")
_DAMAGE = re.compile(r"marks/damage-([0-9a-f]{64})-[0-9a-f]{16}")

T = TypeVar("T")

Slots = frozenset[int] | None
"""Slots of a pack, None for all of it."""


@dataclass(frozen=True, slots=True)
class Pin:
    """What keeps a point from expiring until it is taken off."""

    id: str
    point: SessionId
    note: str
    time: datetime


@dataclass(slots=True)
class Marks:
    """Thread-safe. Objects never change, so each is read once.

    A mark that does not open says nothing and is logged, with `strict` it is an IntegrityError: for a collector, which
    must not take a forged mark for a forgotten point, nor miss a pin or damage. While a pin does not open, no point is
    out of sight for having been forgotten: it may be the one that is pinned.
    """

    _backend: Backend
    _keyring: Keyring
    _clock: Clock
    _known: dict[str, dict[str, Any]] = field(default_factory=dict)

    def forget(self, point: SessionId, reason: str) -> None:
        """Take a point out of every list; its space comes back with the next collection. Idempotent."""
        self._put(f"marks/forgotten-{point}", {"point": point, "reason": reason})

    def forgotten(self, *, strict: bool = False) -> set[SessionId]:
        """The points that were forgotten and are not yet swept away with their marks.

        A pin outweighs it: what is pinned, before or since, is not forgotten. It is put and looked for like the session
        of a reader, so that what it holds is not condemned, or leaves the condemned list.
        """
        return set(self.why_forgotten(strict=strict))

    def why_forgotten(self, *, strict: bool = False) -> Mapping[SessionId, str]:
        """The same, with the reason that was given for each."""
        forgotten = dict(self._all(_FORGOTTEN, _forgotten, strict))
        if not forgotten:
            return {}
        pins, doubtful = self._pins(strict)
        if doubtful:
            _log.warning("%d pins do not open: points that were forgotten are shown, they may be pinned", len(doubtful))
            return {}
        pinned = {pin.point for pin in pins}
        return {point: reason for point, reason in forgotten.items() if point not in pinned}

    def pin(self, point: SessionId, note: str) -> Pin:
        """Keep a point from expiring, and one that was forgotten from going; `pinning` looks whether it held.

        Several pins of one point are taken off one by one.
        """
        pin = Pin(secrets.token_hex(16), point, note, self._clock.now())
        self._put(f"marks/pin-{pin.id}", {"point": point, "note": note, "time": pin.time.isoformat()})
        return pin

    def unpin(self, pin: Pin) -> None:
        """Take a pin off. Idempotent."""
        self._put(f"marks/unpin-{pin.id}", {"pin": pin.id})

    def pins(self, *, strict: bool = False) -> list[Pin]:
        """The pins that hold, the oldest first."""
        return sorted(self._pins(strict)[0], key=lambda pin: (pin.time, pin.id))

    def _pins(self, strict: bool) -> tuple[list[Pin], set[str]]:
        """The pins that hold, and the ids of those that hold for a point that nobody can tell."""
        off = set(self._all(_UNPIN, _unpinned, strict))
        doubtful: dict[str, OffhostError] = {}
        pins = list(self._all(_PIN, _pin, False, lambda name, error: doubtful.setdefault(name[1], error)))
        for pin, error in doubtful.items():
            if strict and pin not in off:
                raise error
        return [pin for pin in pins if pin.id not in off], doubtful.keys() - off

    def damage(self, pack: str, slots: Slots, what: str) -> None:
        """Copies that are not to be relied on any more: from now on they are missing to every writer."""
        name = f"marks/damage-{pack}-{secrets.token_hex(8)}"
        self._put(name, {"pack": pack, "slots": None if slots is None else sorted(slots), "what": what})

    def damaged(self, *, strict: bool = False) -> Mapping[str, Slots]:
        """The copies that are marked as damaged, by pack."""
        found: dict[str, Slots] = {}
        for pack, slots in self._all(_DAMAGE, _damage, strict):
            known = found.get(pack, frozenset())
            found[pack] = None if slots is None or known is None else known | slots
        return found

    def spent(self, packs: frozenset[str], points: frozenset[str]) -> list[str]:
        """The names of the marks that say nothing any more, of packs and points that are swept, and pins taken off.

        To be deleted in this order: a pin must not outlast what takes it off. Raises: IntegrityError.
        """
        names = [item.name for item in self._backend.list("marks/")]
        off = {found[1] for name in names if (found := _UNPIN.fullmatch(name))}
        holding, _ = self._pins(strict=True)
        over = off | {pin.id for pin in holding if pin.point in points}
        spent = [name for name in names if (found := _FORGOTTEN.fullmatch(name)) and found[1] in points]
        spent += [name for name in names if (found := _DAMAGE.fullmatch(name)) and found[1] in packs]
        spent += [name for name in names if (found := _PIN.fullmatch(name)) and found[1] in over]
        return spent + [f"marks/unpin-{pin}" for pin in sorted(over & off)]

    def _all(
        self,
        form: re.Pattern[str],
        parse: Callable[[re.Match[str], dict[str, Any]], T],
        strict: bool,
        on_unreadable: Callable[[re.Match[str], OffhostError], object] = lambda *_: None,
    ) -> Iterator[T]:
        """What the marks say whose names have this form; those that do not open are told."""
        listed = list(self._backend.list("marks/"))
        if len(self._known) > len(listed):  # some have gone with what they marked
            there = {item.name for item in listed}
            self._known = {name: mark for name, mark in list(self._known.items()) if name in there}
        for item in listed:
            if found := form.fullmatch(item.name):
                try:
                    said = parse(found, self._read(item.name))
                except ObjectNotFound:
                    continue  # gone since it was listed, with what it marked
                except (IntegrityError, BackendError) as error:
                    if strict:
                        raise
                    _log.warning("%s; the mark says nothing", error)
                    on_unreadable(found, error)
                    continue
                yield said

    def _read(self, name: str) -> dict[str, Any]:
        if name not in self._known:
            self._known[name] = get_json(self._backend, self._keyring, ObjectType.MARK, name)
        return self._known[name]

    def _put(self, name: str, value: dict[str, Any]) -> None:
        value = {"time": self._clock.now().isoformat()} | value
        try:
            self._backend.put(name, seal_json(self._keyring, ObjectType.MARK, name, value))
        except ObjectExists:
            self._read(name)  # said already; what stands there must be a mark


def _forgotten(name: re.Match[str], mark: dict[str, Any]) -> tuple[SessionId, str]:
    return SessionId(_named(name, mark, "point")), str(mark.get("reason", ""))


def _unpinned(name: re.Match[str], mark: dict[str, Any]) -> str:
    return _named(name, mark, "pin")


def _named(name: re.Match[str], mark: dict[str, Any], field_: str) -> str:
    if mark.get(field_) != name[1]:
        raise PackCorrupt(f"{name.string}: it speaks of something else than its name")
    return name[1]


def _pin(name: re.Match[str], mark: dict[str, Any]) -> Pin:
    try:
        return Pin(name[1], SessionId(str(mark["point"])), str(mark["note"]), moment(mark["time"]))
    except (KeyError, TypeError, ValueError) as error:
        raise PackCorrupt(f"{name.string}: not a pin: {error!r}") from error


def _damage(name: re.Match[str], mark: dict[str, Any]) -> tuple[str, Slots]:
    slots = mark.get("slots")
    if slots is None:
        return name[1], None
    if not isinstance(slots, list) or not all(isinstance(slot, int) and slot >= 0 for slot in slots):
        raise PackCorrupt(f"{name.string}: not a list of slots")
    return name[1], frozenset(slots)
