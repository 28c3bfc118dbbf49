"""Who is at work in a repository, as a collector sees it.

Owns: reading `sessions/`, telling who has ended, ending those that cannot end themselves. Does not own: being present
(presence), what a collector spares for whom (collect).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from offhost.backend.contract import Backend
from offhost.clock import Clock, moment
from offhost.errors import ObjectExists, ObjectNotFound, PackCorrupt
from offhost.ids import SessionId
from offhost.repository.keys.keyring import Keyring
from offhost.repository.objects.presence import lives
from offhost.repository.objects.sealed import ObjectType, get_json, seal_json

_NAME = re.compile(r"sessions/([0-9a-f]{32})(?:\.(end|[1-9][0-9]{0,9}))?")
_POINT = re.compile(r"points/[0-9a-f]{32}/([0-9a-f]{32})")

READER_SILENT = timedelta(hours=24)
"""A reader without a heartbeat for so long is taken for gone: at worst its reading fails, and no point is harmed."""


@dataclass(frozen=True, slots=True)
class Session:
    """Somebody at work: a writer with the name reserved for its point, or a reader with the point it reads."""

    id: SessionId
    kind: Literal["write", "read"]
    point: str
    started: datetime
    process: dict[str, Any]
    beats: int
    """The number of its last heartbeat, 0 before the first."""

    @property
    def point_id(self) -> SessionId:
        """The id in the point's name."""
        return SessionId(self.point.rpartition("/")[2])

    def __str__(self) -> str:
        host = self.process.get("host", "an unknown host")
        return f"session {self.id[:12]} of {host}, process {self.process.get('pid', '?')}, since {self.started:%F %T}Z"


@dataclass(frozen=True, slots=True)
class Attendance:
    """The sessions that have not ended, and the objects of those that have."""

    writers: dict[SessionId, Session]
    readers: dict[SessionId, Session]
    leftovers: tuple[str, ...]
    """To be deleted in this order: a session must not outlast its end, nor a beat its session."""


def attendance(backend: Backend, keyring: Keyring, swept_points: Iterable[str]) -> Attendance:
    """Who is there now. Raises: IntegrityError, BackendError: who cannot be read may need anything."""
    names: dict[SessionId, set[str]] = {}
    for item in backend.list("sessions/"):
        found = _NAME.fullmatch(item.name)
        if not found:
            raise PackCorrupt(f"{item.name}: not the name of a session", hint="move it elsewhere if it is none")
        names.setdefault(SessionId(found[1]), set()).add(found[2] or "")
    swept = set(swept_points)
    writers: dict[SessionId, Session] = {}
    readers: dict[SessionId, Session] = {}
    leftovers: list[str] = []
    for sid, parts in names.items():
        session = _session(backend, keyring, sid, parts) if "" in parts and "end" not in parts else None
        if session is None or _ended(backend, session, swept):
            beats = sorted(parts - {"", "end"})
            leftovers += [f"sessions/{sid}.{beat}" for beat in beats]
            leftovers += [f"sessions/{sid}"] if "" in parts else []
            leftovers += [f"sessions/{sid}.end"] if "end" in parts else []
        else:
            (writers if session.kind == "write" else readers)[sid] = session
    return Attendance(writers, readers, tuple(leftovers))


def _session(backend: Backend, keyring: Keyring, sid: SessionId, parts: set[str]) -> Session | None:
    """The session of that id, None when it is gone since it was listed."""
    name = f"sessions/{sid}"
    try:
        value = get_json(backend, keyring, ObjectType.SESSION, name)
    except ObjectNotFound:
        return None
    try:
        kind, point, started = value["kind"], value["point"], moment(value["started"])
        found = _POINT.fullmatch(point)
        if kind not in ("write", "read") or not found or (kind == "write" and found[1] != sid):
            raise ValueError(f"a session of kind {kind} at {point}")
    except (KeyError, TypeError, ValueError) as error:
        raise PackCorrupt(f"{name}: not a session: {error!r}") from error
    return Session(sid, kind, point, started, value, max((int(beat) for beat in parts if beat.isdigit()), default=0))


def _ended(backend: Backend, session: Session, swept: set[str]) -> bool:
    """A writer has ended when its point's name is taken, also by one that was swept since; a reader says it itself."""
    if session.kind == "read":
        return False
    if session.id in swept:
        return True
    try:
        backend.size(session.point)
    except ObjectNotFound:
        return False
    return True


def fence(backend: Backend, keyring: Keyring, session: Session) -> None:
    """End a writer by taking its point's name: it can never commit. Idempotent; without effect on one that has."""
    try:
        backend.put(session.point, seal_json(keyring, ObjectType.POINT, session.point, {"tombstone": "fenced"}))
    except ObjectExists:
        return


def is_gone(reader: Session, backend: Backend, keyring: Keyring, clock: Clock) -> bool:
    """Whether a reader will not read any more: its process is dead, or may be, and has been silent for a day."""
    alive = lives(reader.process)
    if alive is not None:
        return not alive
    heard = reader.started
    if reader.beats:
        name = f"sessions/{reader.id}.{reader.beats}"
        try:
            heard = moment(get_json(backend, keyring, ObjectType.HEARTBEAT, name)["time"])
        except ObjectNotFound:
            return False
        except (KeyError, TypeError, ValueError) as error:
            raise PackCorrupt(f"{name}: not a heartbeat: {error!r}") from error
    return clock.now() - heard > READER_SILENT
