"""Which restore points there are.

Owns: reading and listing points, what is forgotten or swept, finding one by what people type.
Does not own: the manifest's form (manifest), writing a point (session), reading its disks (restorepoint).
"""

import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from datetime import datetime

import blake3

from offhost.backend.contract import Backend
from offhost.errors import IntegrityError, NotFound, ObjectNotFound, PackCorrupt
from offhost.ids import SessionId, VmId
from offhost.repository.keys.keyring import Keyring
from offhost.repository.objects.graves import Graveyard
from offhost.repository.objects.marks import Marks
from offhost.repository.objects.sealed import PAYLOAD_LIMIT_BYTES, ObjectType, get_json, unseal_json
from offhost.repository.points.manifest import Manifest, Predecessor, from_json

_log = logging.getLogger(__name__)

Order = tuple[int, datetime, str]
"""Sequence, time and id; see `Manifest.order`."""


class Points:
    """The points of a repository, read afresh at each call."""

    def __init__(self, backend: Backend, keyring: Keyring, graveyard: Graveyard, marks: Marks) -> None:
        self._backend, self._keyring = backend, keyring
        self._graveyard, self._marks = graveyard, marks
        self._orders: dict[str, dict[str, Order]] = {}
        self._tombstones: set[str] = set()

    def all(self) -> list[Manifest]:
        """Every point that counts and opens, oldest first within a VM; `read` tells what does not open."""
        return self._readable("points/")

    def of(self, vm: VmId) -> list[Manifest]:
        """The points of one VM that open, oldest first."""
        return self._readable(f"points/{self._keyring.vm_folder(vm)}/")

    def latest(self, vm: VmId) -> Manifest | None:
        """The last point of a VM that opens, read afresh, to build on; None when there is none.

        Raises: IntegrityError when what was condemned or swept cannot be told.
        """
        return next(self.newest_first(vm), None)

    def newest_first(self, vm: VmId, gone: Collection[str] | None = None) -> Iterator[Manifest]:
        """The points of a VM that open, each read afresh when its turn comes, to build on. `gone`: see `survey`.

        Which one is older is remembered by this process: points do not change. Raises: as `latest`.
        """
        orders = self._orders_in(
            f"points/{self._keyring.vm_folder(vm)}/", self.gone(strict=True) if gone is None else gone
        )
        for name in sorted(orders, key=orders.__getitem__, reverse=True):
            with suppress(IntegrityError):  # damaged since it was looked at
                if point := self._read(name):
                    yield point

    def _orders_in(self, folder: str, dead: Collection[str]) -> dict[str, Order]:
        """Where the points of a VM that count and, by now, open stand among each other.

        Of a VM's points no more is remembered than are there: a daemon sees a great many come and go.
        """
        known, orders = self._orders.get(folder, {}), dict[str, Order]()
        for item in self._backend.list(folder):
            if item.name.rpartition("/")[2] not in dead and (order := known.get(item.name) or self._order(item.name)):
                orders[item.name] = order
        self._orders[folder] = orders
        return orders

    def _order(self, name: str) -> Order | None:
        """Where a point stands; None for what does not count or does not open."""
        try:
            point = self._read(name)
        except IntegrityError as error:
            _log.warning("%s", error)
            return None
        return point.order if point else None

    def _readable(self, prefix: str) -> list[Manifest]:
        points, damaged = self.read(prefix)
        for error in damaged:
            _log.warning("%s", error)
        return points

    def read(self, prefix: str = "points/") -> tuple[list[Manifest], list[IntegrityError]]:
        """The points that count, and for each one that does not open, why: it must not bar the way to the others."""
        found, unreadable = self.survey(prefix)
        return found, list(unreadable.values())

    def survey(
        self, prefix: str = "points/", gone: frozenset[str] | None = None
    ) -> tuple[list[Manifest], dict[str, IntegrityError]]:
        """The same, with the object names of those that do not open. `gone`: the points not to count, by id."""
        dead = self.gone() if gone is None else gone
        found: list[Manifest] = []
        unreadable: dict[str, IntegrityError] = {}
        for item in self._backend.list(prefix):
            if item.name.rpartition("/")[2] not in dead:
                try:
                    point = self._read(item.name)
                except IntegrityError as error:
                    unreadable[item.name] = error
                else:
                    found += [point] if point else []
        return sorted(found, key=lambda point: (point.vm_id, point.order)), unreadable

    def forgotten_of(self, vm: VmId) -> list[Manifest]:
        """The points of one VM that were forgotten, and are still there and open."""
        forgotten = self._marks.forgotten()
        found = []
        for item in self._backend.list(f"points/{self._keyring.vm_folder(vm)}/"):
            if item.name.rpartition("/")[2] in forgotten:
                with suppress(IntegrityError):  # nobody needs it any more
                    found.append(self._read(item.name))
        return [point for point in found if point]

    def ids(self) -> frozenset[SessionId]:
        """The ids of all points and tombstones that are there, whether they count or not."""
        return frozenset(SessionId(item.name.rpartition("/")[2]) for item in self._backend.list("points/"))

    def tombstones(self) -> frozenset[SessionId]:
        """Of the tombstones that are there those that this process has met when it surveyed the points."""
        return frozenset(
            SessionId(item.name.rpartition("/")[2])
            for item in self._backend.list("points/")
            if item.name in self._tombstones
        )

    def is_tombstone(self, name: str) -> bool:
        """Whether an object of this name is there, opens and is no point."""
        with suppress(IntegrityError):
            self._read(name)
        return name in self._tombstones

    def gone(self, *, strict: bool = False) -> set[str]:
        """The points that do not count, by id: forgotten, condemned or swept. `strict`: see `Graveyard.read`.

        Nothing may be built on a condemned point, not even on one that a pin, too late, has brought back.
        """
        graves = self._graveyard.read() if strict else self._graveyard.read_tolerant()
        return self._marks.forgotten() | graves.swept_points | graves.condemned_points

    def _read(self, name: str) -> Manifest | None:
        """A point; None for a tombstone, or one that is gone since it was listed."""
        if name in self._tombstones:  # for good
            return None
        try:
            value = get_json(self._backend, self._keyring, ObjectType.POINT, name)
        except ObjectNotFound:
            return None
        if "tombstone" in value:
            self._tombstones.add(name)
            return None
        point = from_json(name, value)
        if self._keyring.vm_folder(point.vm_id) != name.split("/")[1]:
            raise PackCorrupt(f"{name}: it says it is of {point.vm_id}, whose points lie elsewhere")
        return point

    def predecessor(self, point: Manifest) -> Predecessor:
        """How the next point of the VM names this one."""
        name = f"points/{self._keyring.vm_folder(point.vm_id)}/{point.id}"
        data = self._backend.get(name, PAYLOAD_LIMIT_BYTES)
        unseal_json(self._keyring, ObjectType.POINT, name, data)
        return Predecessor(point.id, blake3.blake3(data).digest())

    def find(self, text: str) -> Manifest:
        """A point by its id, a unique beginning of one, or `VM@latest`. Raises: NotFound, naming the candidates."""
        return choose(self.all(), text)


def choose(points: Sequence[Manifest], text: str) -> Manifest:
    """The point among these that a text means. Raises: NotFound; see `Points.find`."""
    name, at, moment = text.rpartition("@")
    if at and moment == "latest":
        return _latest(name, points)
    found = [point for point in points if point.id.startswith(text.lower())] if text else []
    if len(found) == 1:
        return found[0]
    if found:
        raise NotFound(f"point {text}: fits {', '.join(point.id for point in found)}", hint="give more digits")
    raise NotFound(f"point {text}: there is none", hint="`offhost points list` shows what there is")


def _latest(name: str, points: Sequence[Manifest]) -> Manifest:
    found = [point for point in points if name in (point.vm_name, point.vm_id)]
    identities = sorted({point.vm_id for point in found})
    if len(identities) > 1:
        raise NotFound(
            f"{name}@latest: several VMs had that name: {', '.join(identities)}",
            hint="put the identity in place of the name",
        )
    if not found:
        raise NotFound(f"{name}@latest: no point of a VM of that name", hint="`offhost points list` shows them")
    return max(found, key=lambda point: point.order)
