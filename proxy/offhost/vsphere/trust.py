"""Which endpoint is spoken to, and what makes its certificate believed.

Owns: TLS towards vSphere, for SOAP and for `/folder` alike. No connection is ever left unverified: the certificate
is either the pinned one or vouched for by a certificate authority, and that is settled before a byte is sent.
"""

import hashlib
import hmac
import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from http.client import HTTPSConnection
from pathlib import Path

from offhost.errors import ConnectFailed, UsageError

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A vCenter or a standalone host, and whom to log in as.

    `password` is asked at each log-in and its answer is not kept. `thumbprint` is the SHA-256 of the certificate, with
    or without colons; without it the certificate must be signed by `ca_file`, or by an authority the machine trusts.
    """

    host: str
    user: str
    password: Callable[[], str] = field(repr=False)
    port: int = 443
    thumbprint: str | None = None
    ca_file: Path | None = None
    timeout_s: float = 120.0
    """How long the endpoint may stay silent within one call."""
    relogin_s: float = 600.0
    """A refused password is tried again after so long: three times in the half hour that lock-out policies count."""
    keep_alive_s: float = 300.0
    """Sessions die after 30 idle minutes: something is asked at least this often."""
    retry_wait_s: float = 1.0
    """How long the first repetition of a read waits after a broken connection; each further one twice as long."""

    def __post_init__(self) -> None:
        if self.thumbprint is not None and not _SHA256.fullmatch(plain_thumbprint(self.thumbprint)):
            raise UsageError(
                f"{self.host}: the thumbprint {self.thumbprint!r} is not a SHA-256 thumbprint",
                hint="give 32 pairs of hexadecimal digits; the older SHA-1 form of 20 pairs is not accepted",
            )

    @property
    def address(self) -> str:
        """`host:port`, as messages name it."""
        return f"{self.host}:{self.port}"


def plain_thumbprint(thumbprint: str) -> str:
    """A thumbprint without colons and in lower case."""
    return thumbprint.replace(":", "").strip().lower()


def written_thumbprint(certificate: bytes) -> str:
    """The SHA-256 thumbprint of a DER certificate as administrators write it: `AB:CD:...`."""
    digest = hashlib.sha256(certificate).hexdigest().upper()
    return ":".join(digest[at : at + 2] for at in range(0, len(digest), 2))


class Trust:
    """Makes connections to one endpoint that are verified by the time they can be used. Thread-safe."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._context = _context(endpoint.ca_file)
        if endpoint.thumbprint is not None:
            self._context.check_hostname = False
            self._context.verify_mode = ssl.CERT_NONE  # the pin is the check, in _VerifiedConnection.connect

    def connection(self, *_ignored: object, **_also_ignored: object) -> HTTPSConnection:
        """A new connection to the endpoint, not yet connected. pyVmomi's stub calls this with arguments of its own."""
        return _VerifiedConnection(self._endpoint, self._context)


def _context(ca_file: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
    except OSError as error:  # ssl.SSLError is one
        raise ConnectFailed(
            f"{ca_file}: the certificates cannot be read: {error.strerror or error}",
            hint="ca_file names a PEM file that the proxy's user can read",
        ) from error


class _VerifiedConnection(HTTPSConnection):
    """Connects and checks as one step: pyVmomi's own pinning is skipped whenever the TLS handshake succeeds."""

    def __init__(self, endpoint: Endpoint, context: ssl.SSLContext) -> None:
        super().__init__(endpoint.host, endpoint.port, timeout=endpoint.timeout_s, context=context)
        self._endpoint = endpoint

    def connect(self) -> None:
        """Connect. Raises: ConnectFailed when the certificate is not the one to trust; OSError."""
        try:
            super().connect()
            self._check_pin()
        except ssl.SSLCertVerificationError as error:
            self.close()
            raise ConnectFailed(
                f"{self._endpoint.address}: its certificate cannot be trusted: {error.verify_message}",
                hint="pin the certificate's SHA-256 thumbprint, or name the authority that signed it",
            ) from error
        except BaseException:
            self.close()
            raise

    def _check_pin(self) -> None:
        if self._endpoint.thumbprint is None:
            return
        certificate = self.sock.getpeercert(binary_form=True) or b""
        presented = written_thumbprint(certificate)
        if not hmac.compare_digest(plain_thumbprint(presented), plain_thumbprint(self._endpoint.thumbprint)):
            raise ConnectFailed(
                f"{self._endpoint.address}: its certificate is not the pinned one",
                hint=f"it presents {presented}; pin this thumbprint only if the certificate was renewed on purpose",
            )
