"""The audit log of what was changed in vSphere: written as it happens, and read back.

Owns: the shape of a line. Does not own: what is a change (vsphere.changes), the files (state).
"""

import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from offhost.clock import Clock, rfc3339
from offhost.ids import InstallationId
from offhost.state import AuditLog
from offhost.vsphere.changes import Change, ChangeLog

_log = logging.getLogger(__name__)


def change_log(log: AuditLog, installation: InstallationId, clock: Clock) -> ChangeLog:
    """Writes each change as a line; what cannot be written is a warning that says it all."""

    def write(change: Change) -> None:
        told = asdict(change)
        actor = told.pop("actor") or {"purpose": None, "run": None, "job": None}
        line = json.dumps({"time": rfc3339(clock.now()), "installation": installation, **actor, **told})
        try:
            log.append(line)
        except OSError as error:
            _log.warning("the audit log cannot be written (%s): %s", error, line)

    return write


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which changes: of a run (its id or the beginning of one), of a VM or path (its name, or its id), of a job."""

    run: str | None = None
    target: str | None = None
    job: str | None = None

    def fits(self, change: dict[str, Any]) -> bool:
        """Whether a change is one of them."""
        return (
            (self.run is None or str(change.get("run") or "").startswith(self.run))
            and (self.target is None or self.target in (change.get("target"), change.get("vm_id")))
            and (self.job is None or self.job == change.get("job"))
        )


def changes(log: AuditLog, wanted: Wanted, *, limit: int) -> list[dict[str, Any]]:
    """The latest changes that the log still has, in the order they were begun, each with what is known of its end.

    `ended` is None, and the outcome `asked`, of one whose end was never told: it is under way, or its process died.
    No more than `limit` are held at a time, however long the log is.
    """
    found: dict[str, dict[str, Any]] = {}
    for line in _objects(log):
        if not wanted.fits(line):
            continue
        known = found.setdefault(str(line.get("id")), {**line, "ended": None})
        if line.get("outcome") != "asked":
            known |= {"outcome": line.get("outcome"), "problem": line.get("problem"), "ended": line.get("time")}
        if len(found) > limit:
            del found[next(iter(found))]
    return list(found.values())


def _objects(log: AuditLog) -> Iterator[dict[str, Any]]:
    """The lines that can be read: one that was cut short by a full disk is passed over."""
    for line in log.lines():
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            yield value
