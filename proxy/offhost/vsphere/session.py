"""The session with a vCenter or a standalone host.

Owns: the threads in which pyVmomi runs, repetition of reads after a broken connection, keep-alive.
Does not own: what is asked: `inventory`, `snapshots`, `tracking` and their neighbours are functions over a session.
"""

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from pyVmomi import vim

from offhost.aio import retrying, shielded
from offhost.errors import ConnectFailed, OffhostError, SessionLost
from offhost.vsphere.changes import ChangeLog, Changing, unlogged
from offhost.vsphere.properties import all_of, touch
from offhost.vsphere.rest import Rest
from offhost.vsphere.soap import Live, Soap
from offhost.vsphere.trust import Endpoint, Trust
from offhost.vsphere.values import Vm

T = TypeVar("T")
_log = logging.getLogger(__name__)

_THREADS = 8
_READ_RETRIES = 3


@dataclass(frozen=True, slots=True)
class About:
    """What the endpoint says of itself."""

    instance_uuid: str
    """vCenter's instance UUID; of a standalone host, the UUID of its hardware."""
    is_vcenter: bool
    version: str
    name: str


class VSphere:
    """A logged-in session. Its coroutines may run concurrently; a cancelled one first lets its thread end."""

    def __init__(
        self, soap: Soap, trust: Trust, pool: ThreadPoolExecutor, about: About, *, log: ChangeLog = unlogged
    ) -> None:
        self.soap = soap
        self._log = log
        self.trust = trust
        self.rest = Rest(soap.endpoint, trust, soap.login)
        self.about = about
        self._pool = pool
        self._stop = threading.Event()
        self._beat = threading.Thread(target=self._keep_alive, name="vsphere-keep-alive", daemon=True)
        self._beat.start()

    @classmethod
    async def connect(cls, endpoint: Endpoint, log: ChangeLog = unlogged) -> "VSphere":
        """Connect and log in; `log` is told of every change.

        Raises: ConnectFailed (no connection, or a certificate that must not be trusted), LoginFailed.
        """
        trust = Trust(endpoint)
        soap = Soap(endpoint, trust)
        pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="vsphere")
        try:
            about = await _hop(pool, lambda: _first_words(soap))
        except BaseException:
            await _hop(pool, soap.close)
            pool.shutdown(wait=False)
            raise
        return cls(soap, trust, pool, about, log=log)

    @property
    def endpoint(self) -> Endpoint:
        """Where the session is."""
        return self.soap.endpoint

    async def close(self) -> None:
        """Log out and end the session's threads; idempotent."""
        self._stop.set()
        await shielded(asyncio.to_thread(self._end))

    async def read(self, call: Callable[[Live], T], doing: str) -> T:
        """Run a call that changes nothing, in a thread; repeated when the connection breaks or the server is busy."""

        async def once() -> T:
            return await _hop(self._pool, lambda: self.soap.call(call, doing))

        return await retrying(once, times=_READ_RETRIES, wait_s=self.endpoint.retry_wait_s)

    async def change(self, call: Callable[[Live], T], doing: str, of: Vm | str) -> T:
        """Run a call that changes something, in a thread, at most once; it is in the record of changes.

        Raises: SessionLost when the connection broke: whether the change was made is then for the caller to find out.
        """
        return await self.made(self.changing(doing, of), call)

    async def made(self, change: Changing, call: Callable[[Live], T]) -> T:
        """As `change`, of a change whose end the caller tells: a call that starts a task."""

        def run() -> T:
            with change:
                return self.soap.call(call, change.what)

        return await _hop(self._pool, run)

    def changing(self, doing: str, of: Vm | str) -> Changing:
        """A change to be made: of a VM, or of a host or a file by its name."""
        return Changing(self._log, vcenter=self.endpoint.host, account=self.endpoint.user, what=doing, of=of)

    def _end(self) -> None:
        self._beat.join()
        self._pool.shutdown(wait=True)
        self.soap.close()

    def _keep_alive(self) -> None:
        while not self._stop.wait(self.endpoint.keep_alive_s):
            try:
                self.soap.call(touch, "keeping the session alive")
            except OffhostError as error:
                _log.warning("the session with %s could not be kept alive: %s", self.endpoint.address, error)


async def _hop(pool: ThreadPoolExecutor, work: Callable[[], T]) -> T:
    """Run work in the pool; a cancellation waits for its end, as the work cannot be interrupted."""

    async def run() -> T:
        return await asyncio.get_running_loop().run_in_executor(pool, work)

    return await shielded(run())


def _first_words(soap: Soap) -> About:
    try:
        return soap.call(_about, "connecting")
    except SessionLost as error:
        raise ConnectFailed(
            f"{soap.endpoint.address}: no connection: {error.message}",
            hint="check host, port, and that the endpoint can be reached from this machine",
        ) from error


def _about(live: Live) -> About:
    about = live.content.about
    is_vcenter = about.apiType == "VirtualCenter"
    return About(
        instance_uuid=(about.instanceUuid or _host_uuid(live)).lower(),
        is_vcenter=is_vcenter,
        version=about.version,
        name=about.fullName,
    )


def _host_uuid(live: Live) -> str:
    """A standalone host has no instance UUID: its hardware's stands in, as long as that hardware does."""
    from_view = all_of(live, {vim.HostSystem: ["summary.hardware.uuid"]})
    uuids = [str(row["summary.hardware.uuid"]) for row in from_view.values() if "summary.hardware.uuid" in row]
    if len(uuids) != 1:
        raise ConnectFailed(f"an endpoint without an instance UUID shows {len(uuids)} hosts instead of one")
    return uuids[0]
