"""A password that was refused is not repeated so often that the account is locked.

Owns: when a log-in may be tried again. Of one endpoint, for its SOAP and its REST interface together, which have one
account. Thread-safe.
"""

import hashlib
import secrets
import threading

from offhost.clock import Clock
from offhost.errors import LoginFailed
from offhost.vsphere.trust import Endpoint


class Login:
    """Hands out the password, unless it is the one that was refused a short while ago.

    Another password is tried at once; the same one every `relogin_s`, since a refusal can pass: a directory that did
    not answer, an account that was locked by somebody else.
    """

    def __init__(self, endpoint: Endpoint, clock: Clock) -> None:
        self._endpoint, self._clock = endpoint, clock
        self._key = secrets.token_bytes(32)
        self._lock = threading.Lock()
        self._refusal: tuple[bytes, float, LoginFailed] | None = None

    def password(self) -> str:
        """The password, as it is now. Raises: LoginFailed as at its refusal, while it must not be tried again."""
        password = self._endpoint.password()
        with self._lock:
            if self._refusal is not None:
                digest, at, error = self._refusal
                if digest == self._digest(password) and self._clock.monotonic() - at < self._endpoint.relogin_s:
                    raise LoginFailed(error.message, hint=error.hint)
        return password

    def refused(self, password: str, error: LoginFailed) -> None:
        """The endpoint refused this password, in these words."""
        with self._lock:
            self._refusal = (self._digest(password), self._clock.monotonic(), error)

    def _digest(self, password: str) -> bytes:
        return hashlib.blake2b(password.encode(), key=self._key).digest()
