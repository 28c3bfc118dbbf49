"""Files on datastores, through the endpoint's `/folder`.

Owns: addresses, authentication and its renewal, ranges, bounds. Synchronous and thread-safe: callers are threads of
the data path. Does not own: which files may be read (ESXi locks a running VM's disks, vSAN has no files here).
"""

import contextlib
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPResponse, HTTPSConnection
from urllib.parse import quote, urlencode

from pyVmomi import vim

from offhost.errors import NotFound, PermissionDenied, ReadFailed, VSphereError
from offhost.vsphere.changes import recorded
from offhost.vsphere.disks import datastore_of
from offhost.vsphere.inventory import inventory_path
from offhost.vsphere.properties import Row, all_of, moref, touch
from offhost.vsphere.session import VSphere
from offhost.vsphere.soap import Live

_CONTENT_RANGE = re.compile(r"bytes (\d{1,20})-(\d{1,20})/(?:\d{1,20}|\*)")
_IDLE_CONNECTIONS = 8
_HOST_DATACENTER = "ha-datacenter"
_BROKEN = (OSError, HTTPException)


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Iterator[bytes] | None = None


class FolderAccess:
    """Reads and writes files on the datastores of one endpoint.

    Paths are vSphere's, `[datastore] folder/file`. Errors are NotFound, PermissionDenied, ReadFailed, and
    those of the session. `close()` when done; connections are kept in between.
    """

    def __init__(self, vsphere: VSphere, datacenter: str | None = None) -> None:
        """`datacenter`: the inventory path of the datacenter, where datastores of one name are in several."""
        self._vsphere = vsphere
        self._datacenter = datacenter
        self._lock = threading.Lock()
        self._idle: list[HTTPSConnection] = []
        self._datacenters: dict[str, list[str]] | None = None
        self._closed = False

    def file_size(self, path: str) -> int:
        """The size of a file in bytes."""
        with self._answer(_Request("HEAD", path), (200,)) as answer:
            return _content_length(answer, path)

    def fetch_range(self, path: str, start: int, length: int, into: memoryview) -> None:
        """Fill `into` with `length` bytes of a file from `start` on; fewer bytes are a ReadFailed, never zeros."""
        if length == 0:
            return
        headers = {"Range": f"bytes={start}-{start + length - 1}"}
        with self._answer(_Request("GET", path, headers), (206,)) as answer:
            _check_range(answer, path, start, length)
            _fill(answer, into[:length], path)

    def download(self, path: str, limit_bytes: int) -> bytes:
        """A small file, whole. Raises: ReadFailed when it is larger than `limit_bytes`."""
        with self._answer(_Request("GET", path), (200,)) as answer:
            content = answer.read(limit_bytes + 1)
        if len(content) > limit_bytes:
            raise ReadFailed(f"{path}: is larger than {limit_bytes} bytes")
        return content

    def upload(self, path: str, size_bytes: int, chunks: Iterator[bytes]) -> None:
        """Write a file of `size_bytes` from its beginning to its end, in place of the one that is there.

        The chunks are asked for once: what breaks off is not repeated, and what it left is the caller's to remove.
        """
        self._vsphere.soap.call(touch, f"writing {path}")  # an upload cannot be sent a second time
        headers = {"Content-Length": str(size_bytes), "Content-Type": "application/octet-stream"}
        request = _Request("PUT", path, headers, _exactly(chunks, size_bytes, path))
        change = self._vsphere.changing(f"writing {path}", path)
        with change, recorded("PUT /folder", path), self._answer(request, (200, 201, 204)):
            pass

    def close(self) -> None:
        """Close the connections; idempotent."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    @contextlib.contextmanager
    def _answer(self, request: _Request, expected: tuple[int, ...]) -> Iterator[HTTPResponse]:
        """The answer to a request; its connection is kept only when the answer was read to its end."""
        connection, answer = self._send(request)
        kept = False
        try:
            _check_status(answer, request, expected)
            yield answer
            kept = not answer.read(1) and self._put_back(connection)
        except _BROKEN as error:
            raise ReadFailed(f"{request.path}: the connection broke: {error}") from error
        finally:
            if not kept:
                connection.close()

    def _send(self, request: _Request) -> tuple[HTTPSConnection, HTTPResponse]:
        """Send with the session's cookie; once more after the log-in had to be renewed."""
        live = self._vsphere.soap.live()
        connection, answer = self._fresh_or_idle(request, live)
        if answer.status not in (401, 403) or request.body is not None:
            return connection, answer
        renewed = self._renewed(live, answer.status)
        if renewed is live:
            return connection, answer
        connection.close()
        return self._fresh(request, renewed)

    def _renewed(self, live: Live, status: int) -> Live:
        """A log-in in place of one that the endpoint did not accept.

        With 403 it may also refuse the file: a call that needs a log-in tells, and has it renewed where it is lost.
        """
        if status == 401:
            return self._vsphere.soap.renewed(live)
        self._vsphere.soap.call(touch, "asking whether the session still holds")
        return self._vsphere.soap.live()

    def _fresh_or_idle(self, request: _Request, live: Live) -> tuple[HTTPSConnection, HTTPResponse]:
        with self._lock:
            connection = self._idle.pop() if self._idle and request.body is None else None
        if connection is not None:
            try:
                return connection, self._ask(connection, request, live)
            except ReadFailed:
                pass  # closed by the far side while it was idle
        return self._fresh(request, live)

    def _fresh(self, request: _Request, live: Live) -> tuple[HTTPSConnection, HTTPResponse]:
        connection = self._vsphere.trust.connection()
        return connection, self._ask(connection, request, live)

    def _ask(self, connection: HTTPSConnection, request: _Request, live: Live) -> HTTPResponse:
        address = self._address(request.path)
        try:
            connection.request(request.method, address, request.body, {**request.headers, "Cookie": live.cookie})
            return connection.getresponse()
        except _BROKEN as error:
            connection.close()
            raise ReadFailed(f"{request.path}: the connection broke: {error}") from error
        except BaseException:
            connection.close()
            raise

    def _put_back(self, connection: HTTPSConnection) -> bool:
        with self._lock:
            if connection.sock is None or self._closed or len(self._idle) >= _IDLE_CONNECTIONS:
                return False
            self._idle.append(connection)
            return True

    def _address(self, path: str) -> str:
        """The URL of a file: vCenter tells datastores of one name apart by the path of their datacenter."""
        datastore = datastore_of(path)
        file = path.partition("]")[2].strip()
        where = urlencode({"dcPath": self._datacenter_of(datastore).lstrip("/"), "dsName": datastore}, quote_via=quote)
        return f"/folder/{quote(file)}?{where}"

    def _datacenter_of(self, datastore: str) -> str:
        if not self._vsphere.about.is_vcenter:
            return _HOST_DATACENTER
        if self._datacenter is not None:
            return self._datacenter
        if self._datacenters is None:
            self._datacenters = self._vsphere.soap.call(_datacenters, "looking where datastores lie")
        found = self._datacenters.get(datastore, [])
        if len(found) != 1:
            where = ", ".join(found) or "none"
            raise NotFound(f"{len(found)} datacenters have a datastore {datastore!r}: {where}")
        return found[0]


def _datacenters(live: Live) -> dict[str, list[str]]:
    """The inventory paths of the datacenters that have a datastore, by its name."""
    rows: dict[str, Row] = all_of(
        live, {vim.Datacenter: ["name", "parent", "datastore"], vim.Folder: ["name", "parent"], vim.Datastore: ["name"]}
    )
    found: dict[str, list[str]] = {}
    for row in rows.values():
        for store in row.get("datastore", ()):
            path = f"{inventory_path(row.get('parent'), rows)}/{row['name']}"
            found.setdefault(str(rows[moref(store)]["name"]), []).append(path)
    return found


def _check_status(answer: HTTPResponse, request: _Request, expected: tuple[int, ...]) -> None:
    if answer.status in expected:
        return
    if answer.status == 404:
        raise NotFound(f"{request.path}: there is no such file on the datastore, or it cannot be read this way")
    if answer.status in (401, 403):
        raise PermissionDenied(
            f"{request.path}: the account may not {'write' if request.method == 'PUT' else 'read'} it",
            hint="give the account's role Datastore.FileManagement and Datastore.Browse on the datastore",
        )
    raise ReadFailed(f"{request.path}: {request.method} was answered with {answer.status} {answer.reason}")


def _content_length(answer: HTTPResponse, path: str) -> int:
    text = answer.getheader("Content-Length") or ""
    if not text.isascii() or not text.isdigit():
        raise ReadFailed(f"{path}: the answer does not say how large the file is")
    return int(text)


def _check_range(answer: HTTPResponse, path: str, start: int, length: int) -> None:
    told = _CONTENT_RANGE.fullmatch(answer.getheader("Content-Range") or "")
    if not told or int(told[1]) != start or int(told[2]) != start + length - 1:
        raise ReadFailed(
            f"{path}: asked for {length} bytes at {start}, was offered {answer.getheader('Content-Range')}"
        )


def _fill(answer: HTTPResponse, into: memoryview, path: str) -> None:
    done = 0
    while done < len(into):
        got = answer.readinto(into[done:])
        if not got:
            raise ReadFailed(f"{path}: the answer ends after {done} of {len(into)} bytes")
        done += got


def _exactly(chunks: Iterator[bytes], size_bytes: int, path: str) -> Iterator[bytes]:
    """The chunks, held to the announced size: a shorter body would leave the endpoint waiting, a longer one is torn."""
    sent = 0
    for chunk in chunks:
        sent += len(chunk)
        if sent > size_bytes:
            raise VSphereError(f"{path}: more than the announced {size_bytes} bytes were given to be written")
        yield chunk
    if sent != size_bytes:
        raise VSphereError(f"{path}: {sent} instead of the announced {size_bytes} bytes were given to be written")
