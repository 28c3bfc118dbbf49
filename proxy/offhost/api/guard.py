"""Who may ask. The API listens on loopback, and so does every browser of this machine speak to it.

A web page can make a browser send requests to loopback (cross-site request forgery), and can have its own name
resolve to 127.0.0.1 to read the answers as well (DNS rebinding). Both are refused by what a page cannot forge: the
Host header, the Origin header, and a content type that needs the server's consent to cross sites.
"""

import ipaddress

from aiohttp import web
from aiohttp.typedefs import Handler

_HARMLESS = frozenset({"GET", "HEAD"})


@web.middleware
async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Let through what no foreign web page can have caused."""
    host = request.headers.get("Host", "")
    if not _is_loopback(host):
        raise web.HTTPMisdirectedRequest(text="ask for a loopback address: this API is for this machine only")
    if request.method not in _HARMLESS:
        origin = request.headers.get("Origin")
        if origin is not None and origin != f"{request.scheme}://{host}":
            raise web.HTTPForbidden(text="requests that change something are not taken from other sites")
        if request.method != "DELETE" and request.content_type != "application/json":
            raise web.HTTPUnsupportedMediaType(text="send Content-Type: application/json")
    return await handler(request)


def _is_loopback(host: str) -> bool:
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    if name.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
