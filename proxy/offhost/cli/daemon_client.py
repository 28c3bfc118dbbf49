"""The running daemon, asked over REST: blocking, and without the libraries of a daemon.

Owns: how a command talks to it. Does not own: finding out whether one runs (state).
"""

import http.client
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from offhost.errors import Conflict, NotFound, OffhostError, UsageError
from offhost.ids import RunId

_TIMEOUT_S = 30
_MAX_ANSWER_BYTES = 64 * 1024 * 1024


class DaemonError(OffhostError):
    """The daemon does not answer, or failed."""

    code = "daemon"


_KINDS: dict[str, type[OffhostError]] = {"not_found": NotFound, "conflict": Conflict, "usage": UsageError}


@dataclass(frozen=True, slots=True)
class DaemonClient:
    """A daemon by its base URL, which it noted in the state directory."""

    url: str

    def run(self, job: str) -> RunId:
        """Begin a run and return its id.

        Raises: NotFound, Conflict, DaemonError.
        """
        return RunId(str(self._ask("POST", f"/api/v1/jobs/{job}/run")["run"]))

    def cancel(self, run_id: RunId) -> None:
        """Have a run end at its next safe point.

        Raises: NotFound when it has ended, DaemonError.
        """
        self._ask("DELETE", f"/api/v1/runs/{run_id}")

    def _ask(self, method: str, path: str) -> dict[str, Any]:
        where = urlsplit(self.url)
        connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=_TIMEOUT_S)
        try:
            body = "{}" if method == "POST" else None
            connection.request(method, path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            content = json.loads(answer.read(_MAX_ANSWER_BYTES))
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise DaemonError(
                f"the daemon at {self.url} does not answer: {error}",
                hint="systemctl status offhost, or its log, says why",
            ) from error
        finally:
            connection.close()
        if answer.status >= 400:
            kind = _KINDS.get(content.get("code"), DaemonError)
            raise kind(content.get("detail", f"status {answer.status}"), hint=content.get("hint"))
        return dict(content)
