"""One log-in after the other at one endpoint: the synchronous heart of the session.

Owns: SOAP connections, log-in and its renewal, what a call raises. Does not own: threads, repetition of what broke.
Thread-safe: pyVmomi takes a connection of its own for each call in flight; the renewal is serialised here.
"""

import contextlib
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from pyVmomi import VmomiSupport, vim, vmodl

from offhost.clock import SystemClock
from offhost.errors import ConnectFailed, LoginFailed, OffhostError, SessionLost, VSphereError
from offhost.vsphere.changes import RecordingStub
from offhost.vsphere.faults import BROKEN, UNREADABLE, broken, translated
from offhost.vsphere.login import Login
from offhost.vsphere.trust import Endpoint, Trust

T = TypeVar("T")
_Managed = TypeVar("_Managed", bound=VmomiSupport.ManagedObject)

_VERSIONS_BYTES = 1 << 20
_POOLED_CONNECTIONS = 8
_POOLED_S = 30
"""An idle connection is not used again after this time: the far side may have closed it, and a call that starts a
task must not be lost to that."""


@dataclass(frozen=True, slots=True)
class Live:
    """One log-in, as calls use it. Objects made of it speak through it, so they must not outlive the call."""

    stub: Any
    content: vim.ServiceInstanceContent

    def object(self, kind: type[_Managed], moref: str) -> _Managed:
        """The managed object of this kind and id, unread."""
        found: _Managed = kind(moref, self.stub)
        return found

    def vm(self, moref: str) -> vim.VirtualMachine:
        """The VM with this id, unread."""
        return self.object(vim.VirtualMachine, moref)

    @property
    def cookie(self) -> str:
        """The session as a Cookie header's value: a secret."""
        return str(self.stub.cookie).partition(";")[0]


class Soap:
    """Calls with a session that is renewed when the endpoint has forgotten it."""

    def __init__(self, endpoint: Endpoint, trust: Trust) -> None:
        self.endpoint = endpoint
        self.login = Login(endpoint, SystemClock())
        self._trust = trust
        self._renewal = threading.Lock()
        self._live: Live | None = None
        self._version = ""
        self._closed = False

    def call(self, function: Callable[[Live], T], doing: str) -> T:
        """Run `function`; after NotAuthenticated log in again and run it once more.

        A call that was not authenticated did nothing, so that is safe as long as `function` makes one call that
        changes something. Raises: OffhostError, SessionLost when the connection broke and nobody knows how far.
        """
        try:
            live = self.live()
            try:
                return function(live)
            except vim.fault.NotAuthenticated:
                return function(self.renewed(live))
        except vmodl.MethodFault as fault:
            raise translated(fault, f"{self.endpoint.host}: {doing}") from fault
        except BROKEN as error:
            raise broken(error, f"{self.endpoint.host}: {doing}") from error
        except UNREADABLE as error:
            raise VSphereError(f"{self.endpoint.host}: {doing}: the answer makes no sense: {error!r}") from error

    def live(self) -> Live:
        """The log-in in force, the first one when there is none. Raises: as `renewed`."""
        return self._live or self.renewed(None)

    def renewed(self, stale: Live | None) -> Live:
        """Log in again, unless another thread already replaced the `stale` log-in.

        Raises: LoginFailed, ConnectFailed (a certificate not to be trusted), SessionLost (no connection).
        """
        with self._renewal:
            if self._closed:
                raise SessionLost(f"{self.endpoint.address}: the session is closed")
            if self._live is None or self._live is stale:
                self._drop()
                self._live = self._log_in()
            return self._live

    def close(self) -> None:
        """Log out, as far as the endpoint listens, and close every connection; idempotent."""
        with self._renewal:
            self._closed = True
            self._drop()

    def _drop(self) -> None:
        """Log out what may still be logged in: an endpoint has room for few sessions."""
        if self._live is not None:
            with contextlib.suppress(vmodl.MethodFault, OffhostError, *BROKEN):
                _session_manager(self._live.content).Logout()
            _retire(self._live.stub)
            self._live = None

    def _log_in(self) -> Live:
        doing = f"{self.endpoint.address}: logging in as {self.endpoint.user}"
        password = self.login.password()
        stub = self._new_stub()
        try:
            content = vim.ServiceInstance("ServiceInstance", stub).RetrieveContent()
            _session_manager(content).Login(self.endpoint.user, password, None)
        except vmodl.MethodFault as fault:
            _retire(stub)
            error = translated(fault, doing)
            if isinstance(error, LoginFailed):
                self.login.refused(password, error)
            raise error from fault
        except BROKEN as error:
            _retire(stub)
            raise broken(error, doing) from error
        except BaseException:
            _retire(stub)
            raise
        return Live(stub, content)

    def _new_stub(self) -> Any:
        """A stub of its own for each log-in: an answer to a call of an older one cannot replace its cookie."""
        self._version = self._version or self._newest_common_version()
        stub = RecordingStub(
            self.endpoint.host,
            port=self.endpoint.port,
            version=self._version,
            poolSize=_POOLED_CONNECTIONS,
            connectionPoolTimeout=_POOLED_S,
        )
        stub.scheme = self._trust.connection
        return stub

    def _newest_common_version(self) -> str:
        """The newest version of the API that both sides speak: an endpoint refuses calls in one it does not know."""
        offered = set(re.findall(rb"<version>([0-9.]{1,20})</version>", self._service_versions()))
        for version in VmomiSupport.GetServiceVersions("vim25"):
            if VmomiSupport.versionIdMap[version].encode() in offered:
                return str(version)
        raise ConnectFailed(
            f"{self.endpoint.address}: does not answer as vCenter or an ESX host does",
            hint="check host and port; the address is that of vCenter itself, not of its appliance management",
        )

    def _service_versions(self) -> bytes:
        connection = self._trust.connection()
        try:
            connection.request("GET", "/sdk/vimServiceVersions.xml")
            return connection.getresponse().read(_VERSIONS_BYTES)
        except BROKEN as error:
            raise broken(error, f"{self.endpoint.address}: asking for its versions of the API") from error
        finally:
            connection.close()


def _retire(stub: Any) -> None:
    """Close a stub's connections, and let calls that are in flight close theirs instead of pooling them."""
    stub.poolSize = 0
    stub.DropConnections()


def _session_manager(content: vim.ServiceInstanceContent) -> vim.SessionManager:
    assert content.sessionManager is not None, "every vSphere endpoint has a session manager"
    return content.sessionManager
