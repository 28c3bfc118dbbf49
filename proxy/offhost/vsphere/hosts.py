"""The ESX hosts, and bundles of their configuration.

Owns: listing them, having a host make a bundle, fetching it from the host itself over a connection that is verified by
what vCenter says of its certificate. Does not own: what becomes of a bundle (backup.host).
"""

import re
import ssl
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from http.client import HTTPException, HTTPResponse
from typing import Any
from urllib.parse import urlsplit

from pyVmomi import vim

from offhost.aio import in_thread
from offhost.clock import SystemClock
from offhost.errors import ConnectFailed, ReadFailed, VSphereError
from offhost.ids import VmId, host_id
from offhost.vsphere.properties import Row, all_of, properties
from offhost.vsphere.session import VSphere
from offhost.vsphere.soap import Live
from offhost.vsphere.trust import Endpoint, Trust, written_thumbprint

BUNDLE_LIMIT_BYTES = 32 << 20
"""Bundles have some hundred KiB."""
NOT_CONNECTED = "vCenter is not connected to this host"
_PLAIN_LIMIT_BYTES = 512 << 20
_PIECE_BYTES = 64 << 10
_FETCH_LIMIT_S = 600.0
_HTTPS = 443
_FIRMWARE = "configManager.firmwareSystem"
_PATHS = (
    "name",
    "runtime.connectionState",
    "summary.hardware.uuid",
    "summary.hardware.vendor",
    "summary.hardware.model",
    "summary.config.product.fullName",
    "summary.config.product.version",
    "summary.config.product.build",
)


@dataclass(frozen=True, slots=True)
class EsxHost:
    """One ESX host of the inventory."""

    moref: str
    name: str
    """As it is known to vCenter: a DNS name or an address, by which it can be reached."""
    uuid: str
    """Of its hardware."""
    connected: bool
    product: str
    version: str
    build: str
    vendor: str
    model: str
    datastores: tuple[str, ...] = ()

    @property
    def id(self) -> VmId:
        """Whose points its configurations become."""
        return host_id(self.uuid)

    @property
    def host(self) -> str:
        """Itself."""
        return self.name


async def hosts(vsphere: VSphere) -> list[EsxHost]:
    """Every ESX host, in the order of names. Raises: VSphereError when two of them claim to be one hardware."""
    rows = await vsphere.read(lambda live: all_of(live, {vim.HostSystem: _PATHS}), "listing the hosts")
    found = sorted((_host(ref, row) for ref, row in rows.items()), key=lambda host: (host.name, host.moref))
    by_uuid: dict[str, EsxHost] = {}
    for host in found:
        if not host.uuid and not host.connected:
            continue  # never seen by vCenter: nothing is known of its hardware, and nothing can be backed up
        other = by_uuid.setdefault(host.uuid, host)
        if other is not host:
            raise VSphereError(
                f"the hosts {other.name} and {host.name} have the same hardware UUID, {host.uuid or 'none'}",
                hint="their configurations would make one history: have the vendor's tool give each board its own UUID",
            )
    return found


def _host(ref: str, row: Row) -> EsxHost:
    def told(path: str) -> str:
        return str(row.get(path, ""))

    return EsxHost(
        moref=ref,
        name=told("name"),
        uuid=told("summary.hardware.uuid").lower(),
        connected=told("runtime.connectionState") == "connected",
        product=told("summary.config.product.fullName"),
        version=told("summary.config.product.version"),
        build=told("summary.config.product.build"),
        vendor=told("summary.hardware.vendor"),
        model=told("summary.hardware.model"),
    )


async def configuration_bundle(vsphere: VSphere, host: EsxHost) -> bytes:
    """Have a host write its configuration down, as `vim-cmd hostsvc/firmware/backup_config` does, and fetch that.

    What comes is a whole gzip file of at most `BUNDLE_LIMIT_BYTES`.
    Raises: PermissionDenied (Host.Config.Firmware), ConnectFailed, ReadFailed, VSphereError.
    """
    if not host.connected:
        raise VSphereError(f"{host.name}: {NOT_CONNECTED}", hint="connect it again in vCenter")
    doing = f"having {host.name} back its configuration up"
    address = await vsphere.change(lambda live: _written(live, host), doing, host.name)
    endpoint, path = _place(address, host, await _endpoint(vsphere, host))
    return await in_thread(_fetched, endpoint, path)


def _written(live: Live, host: EsxHost) -> str:
    row = properties(live, vim.HostSystem, [live.object(vim.HostSystem, host.moref)], [_FIRMWARE])[host.moref]
    if _FIRMWARE not in row:
        raise VSphereError(f"{host.name}: offers no backup of its configuration")
    system: vim.host.FirmwareSystem = row[_FIRMWARE]
    return str(system.BackupFirmwareConfiguration())


async def _endpoint(vsphere: VSphere, host: EsxHost) -> Endpoint:
    """Where the host itself is, and whom to believe there: its certificate as vCenter knows it, and no other."""
    if not vsphere.about.is_vcenter:
        return vsphere.endpoint
    path = "config.certificate"
    row = await vsphere.read(
        lambda live: properties(live, vim.HostSystem, [live.object(vim.HostSystem, host.moref)], [path])[host.moref],
        f"reading the certificate of {host.name}",
    )
    if not row.get(path):
        raise ConnectFailed(f"{host.name}: vCenter does not tell the host's certificate, so it cannot be trusted")
    pinned = written_thumbprint(_der(row[path], host))
    return replace(vsphere.endpoint, host=host.name, port=_HTTPS, thumbprint=pinned, ca_file=None)


def _der(told: Any, host: EsxHost) -> bytes:
    """The certificate in an array of signed bytes, as xsd:byte has them."""
    try:
        return ssl.PEM_cert_to_DER_cert(bytes(int(one) & 0xFF for one in told).decode("ascii").strip())
    except ValueError as error:
        raise ConnectFailed(f"{host.name}: what vCenter tells as the host's certificate is none") from error


def _place(address: str, host: EsxHost, endpoint: Endpoint) -> tuple[Endpoint, str]:
    """Where the bundle lies. The answer names the host as `*`; one that names another is not followed."""
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    usual = (
        parts.scheme in ("http", "https")
        and parts.netloc.partition(":")[0] in ("*", host.name)
        and re.fullmatch(r"/[!-~]{1,1000}", parts.path)
    )
    if not usual:
        raise ReadFailed(f"{host.name}: says that its configuration lies at {address!r:.200}, which is not on itself")
    if port is None or parts.scheme == "http":  # which a host forwards to https
        port = endpoint.port
    return replace(endpoint, port=port), parts.path


def _fetched(endpoint: Endpoint, path: str) -> bytes:
    """Without any cookie: the address is a secret of its own, and the session is vCenter's."""
    connection = Trust(endpoint).connection()
    where = f"{endpoint.address}{path}"
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        if answer.status != 200:
            raise ReadFailed(f"{where}: was answered with {answer.status} {answer.reason}")
        content = b"".join(_pieces(answer, where))
    except (OSError, HTTPException) as error:
        raise ReadFailed(f"{where}: the connection broke: {str(error) or type(error).__name__}") from error
    finally:
        connection.close()
    _check_whole(content, where)
    return content


def _pieces(answer: HTTPResponse, where: str) -> Iterator[bytes]:
    """What comes, bounded in size and time."""
    clock, size = SystemClock(), 0
    until = clock.monotonic() + _FETCH_LIMIT_S
    while piece := answer.read1(_PIECE_BYTES):
        size += len(piece)
        if size > BUNDLE_LIMIT_BYTES:
            raise ReadFailed(f"{where}: more than {BUNDLE_LIMIT_BYTES} bytes are no host's configuration")
        if clock.monotonic() > until:
            raise ReadFailed(f"{where}: did not end within {_FETCH_LIMIT_S:.0f} s")
        yield piece


def _check_whole(content: bytes, where: str) -> None:
    """A gzip file carries its own length and checksum: one that was cut off, or is an error page, is not kept."""
    unzip = zlib.decompressobj(wbits=31)
    rest, plain, piece = content, 0, b"-"
    try:
        while not unzip.eof and (rest or piece) and plain <= _PLAIN_LIMIT_BYTES:
            piece = unzip.decompress(rest, 1 << 20)
            rest, plain = unzip.unconsumed_tail, plain + len(piece)
    except zlib.error as error:
        raise ReadFailed(f"{where}: is not a whole gzip file: {error}") from error
    if not unzip.eof:
        raise ReadFailed(f"{where}: is not a whole gzip file: {len(content)} bytes came")
