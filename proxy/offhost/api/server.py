"""The listening socket."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from offhost.errors import Conflict

_GRACE_S = 2.0
"""How long requests under way may take to end at shutdown; none here takes longer than a look at the catalog."""


@asynccontextmanager
async def serving(app: web.Application, address: str, port: int) -> AsyncIterator[str]:
    """Serve `app` for the scope; yields the base URL, with the port that was chosen where `port` is 0.

    Raises: Conflict when something else listens there.
    """
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_GRACE_S)
    await runner.setup()
    try:
        site = web.TCPSite(runner, address, port)
        try:
            await site.start()
        except OSError as error:
            raise Conflict(
                f"cannot listen on {address}:{port}: {error.strerror}",
                hint="is another daemon running? `listen` in proxy.yaml says where to listen",
            ) from error
        host, bound = runner.addresses[0][:2]
        yield f"http://[{host}]:{bound}" if ":" in host else f"http://{host}:{bound}"
    finally:
        await runner.cleanup()
