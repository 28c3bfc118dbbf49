"""vCenter's REST interface, which alone knows tags.

Owns: its sessions, one for each piece of work, and the bounds of its answers. Synchronous; thread-safe. A standalone
host has none. Does not own: what is asked (`tags`).
"""

import base64
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from http.client import HTTPException, HTTPSConnection
from typing import Any

from offhost.errors import LoginFailed, PermissionDenied, VSphereError
from offhost.vsphere.changes import recorded
from offhost.vsphere.faults import UNREADABLE, broken
from offhost.vsphere.login import Login
from offhost.vsphere.trust import Endpoint, Trust

_ANSWER_BYTES = 4 << 20
_SESSION = "/com/vmware/cis/session"
_SESSION_HEADER = "vmware-api-session-id"

Ask = Callable[..., Any]
"""`ask(method, path, body=None)`: the value of the answer, decoded."""


def _is_reading(method: str, path: str) -> bool:
    return method == "GET" or path == _SESSION or "?~action=list-" in path


class Rest:
    """Logs in for each piece of work."""

    def __init__(self, endpoint: Endpoint, trust: Trust, login: Login) -> None:
        self._endpoint = endpoint
        self._trust = trust
        self._login = login

    @contextmanager
    def session(self) -> Iterator[Ask]:
        """Logged in, on one connection, and logged out at the end.

        Raises: LoginFailed, SessionLost, PermissionDenied, VSphereError for any answer that is not a success.
        """
        password = self._login.password()
        connection = self._trust.connection()
        headers: dict[str, str] = {}

        def ask(method: str, path: str, body: object = None) -> Any:
            recording = nullcontext() if _is_reading(method, path) else recorded(f"{method} /rest", path)
            with recording:
                return self._ask(connection, method, path, headers=headers, body=body)

        try:
            headers["Authorization"] = self._basic(password)
            try:
                token = str(ask("POST", _SESSION))
            except LoginFailed as error:
                self._login.refused(password, error)
                raise
            del headers["Authorization"]
            headers[_SESSION_HEADER] = token
            yield ask
            ask("DELETE", _SESSION)
        except (OSError, HTTPException) as error:
            raise broken(error, f"{self._endpoint.host}: asking the REST interface") from error
        except UNREADABLE as error:
            raise VSphereError(
                f"{self._endpoint.host}: the REST interface's answer makes no sense: {error!r}"
            ) from error
        finally:
            connection.close()

    def _basic(self, password: str) -> str:
        pair = f"{self._endpoint.user}:{password}".encode()
        return "Basic " + base64.b64encode(pair).decode()

    def _ask(
        self, connection: HTTPSConnection, method: str, path: str, *, headers: dict[str, str], body: object
    ) -> Any:
        sent = json.dumps(body) if body is not None else None
        kind = {"Content-Type": "application/json"} if sent else {}
        connection.request(method, f"/rest{path}", sent, {**headers, **kind})
        answer = connection.getresponse()
        content = answer.read(_ANSWER_BYTES + 1)
        doing = f"{self._endpoint.host}: {method} {path}"
        if answer.status == 401 and path == _SESSION:
            raise LoginFailed(f"{doing}: user and password are not accepted")
        if answer.status == 403:
            raise PermissionDenied(f"{doing}: the account may not; which privilege it lacks is not said")
        if answer.status // 100 != 2 or len(content) > _ANSWER_BYTES:
            raise VSphereError(f"{doing}: answered {answer.status} {answer.reason}")
        return json.loads(content).get("value") if content.strip() else None
