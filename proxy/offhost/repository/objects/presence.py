"""That somebody is at work in a repository: the session object, its heartbeats, its end.

Owns: FORMAT.md, "Sessions", but for what a writer commits (session). A collector spares what a present session may
need, and fences one whose heart has stopped.
"""

import logging
import os
import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import blake3

from offhost.backend.contract import Backend
from offhost.clock import Clock
from offhost.errors import ObjectExists, OffhostError
from offhost.ids import SessionId, VmId, random_id
from offhost.repository.keys.keyring import Keyring
from offhost.repository.objects.sealed import ObjectType, seal_json

_log = logging.getLogger(__name__)

HEARTBEAT_S = 300.0


class Presence:
    """One session, from `begin` to `end`. Its id reserves the name `point` below the VM's folder.

    A thread beats until the end. Ending is idempotent.
    """

    def __init__(self, backend: Backend, keyring: Keyring, vm: VmId, clock: Clock) -> None:
        self._backend, self._keyring, self._clock = backend, keyring, clock
        self.id = SessionId(random_id())
        self.vm = vm
        self.folder = f"points/{keyring.vm_folder(vm)}"
        self.point = f"{self.folder}/{self.id}"
        self._ended = threading.Event()
        self._heart = threading.Thread(target=self._beat, name=f"session-{self.id[:8]}", daemon=True)

    def begin(self, kind: Literal["write", "read"], point: str) -> None:
        """Put the session, durably: `point` is the name reserved, or that of the point being read."""
        name = f"sessions/{self.id}"
        value = {"kind": kind, "point": point, "started": self._clock.now().isoformat(), **this_process()}
        self._backend.put(name, seal_json(self._keyring, ObjectType.SESSION, name, value))
        self._heart.start()

    def _beat(self) -> None:
        beats = 0
        while not self._ended.wait(HEARTBEAT_S):
            beats += 1
            name = f"sessions/{self.id}.{beats}"
            value = {"time": self._clock.now().isoformat()}
            try:
                self._backend.put(name, seal_json(self._keyring, ObjectType.HEARTBEAT, name, value))
            except OffhostError as error:
                _log.warning("a session's heartbeat was not stored: %s", error)

    @property
    def ended(self) -> bool:
        """Whether the session is over."""
        return self._ended.is_set()

    def entomb(self) -> None:
        """End a writer's session without a point: a tombstone takes the reserved name."""
        self._leave(ObjectType.POINT, self.point, {"tombstone": "aborted"})

    def leave(self) -> None:
        """End a reader's session."""
        self._leave(ObjectType.SESSION, f"sessions/{self.id}.end", {})

    def _leave(self, kind: ObjectType, name: str, value: dict[str, Any]) -> None:
        """What goes wrong is logged: it must not hide what ended the session, which ends anyway, by its silence."""
        try:
            with suppress(ObjectExists):
                self._backend.put(name, seal_json(self._keyring, kind, name, value))
        except OffhostError as error:
            _log.warning("the end of session %s could not be marked: %s", self.id, error)
        finally:
            self.end()

    def end(self) -> None:
        """Stop beating: the reserved name is taken."""
        self._ended.set()
        if self._heart.ident:
            self._heart.join()


def this_process() -> dict[str, Any]:
    """What tells others on this machine whether this process still lives; what cannot be found out is left out."""
    described: dict[str, Any] = {"host": socket.gethostname(), "pid": os.getpid()}
    with suppress(OSError):
        described["boot"] = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        described["pid_namespace"] = os.readlink("/proc/self/ns/pid")
    if name := _machine_id() or described.get("boot", ""):  # without an id of its own, each boot is another machine
        described["machine"] = blake3.blake3(name.encode()).hexdigest()[:32]
    with suppress(OSError):
        described["pid_started"] = _started("self")
    return described


def _machine_id() -> str:
    """The machine's id (machine-id(5)), which a container or a minimal system may lack."""
    try:
        return Path("/etc/machine-id").read_text().strip()
    except OSError:
        return ""


def lives(process: Mapping[str, Any]) -> bool | None:
    """Whether a process described by `this_process` lives, where that is certain; None elsewhere.

    A machine is known by its id and name; within one boot a process by its namespace, number and time of start. One of
    another boot is gone unless it began since this one: then it is on a machine that was cloned from this, or the other
    way round.
    """
    here = this_process()
    if any(field not in here or process.get(field) != here[field] for field in ("machine", "host")):
        return None
    if "boot" not in here or not process.get("boot"):
        return None
    if process["boot"] != here["boot"]:
        return None if _since_boot(process) else False
    if "pid_started" not in process or process.get("pid_namespace") != here.get("pid_namespace"):
        return None
    try:
        return _started(str(int(process["pid"]))) == int(process["pid_started"])
    except FileNotFoundError:
        return False
    except (KeyError, TypeError, ValueError, OSError):
        return None


def _since_boot(process: Mapping[str, Any]) -> bool:
    """Whether a session began after this machine did (proc(5), stat, btime); True where nobody can tell."""
    try:
        booted = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime "))
        return datetime.fromisoformat(process["started"]).timestamp() >= int(booted.split()[1])
    except (OSError, StopIteration, KeyError, TypeError, ValueError):
        return True


def _started(pid: str) -> int:
    """When a process began, in ticks since the boot (proc(5), stat, field 22). Raises: FileNotFoundError."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
