"""Errors as RFC 9457 problems: `application/problem+json` with the error's stable code and its hint."""

import logging

from aiohttp import web
from aiohttp.typedefs import Handler

from offhost.errors import Conflict, NotFound, OffhostError, UsageError

_log = logging.getLogger(__name__)


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer every error in one form; what is not ours to tell goes to the log."""
    try:
        return await handler(request)
    except OffhostError as error:
        return _problem(_status(error), code=error.code, detail=str(error), hint=error.hint)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        code = error.reason.lower().replace(" ", "_")
        return _problem(error.status, code=code, detail=error.text or error.reason, hint=None)
    except Exception:  # noqa: BLE001 - the last frame of a request: the caller gets an answer, the log gets the fault
        _log.exception("%s %s failed", request.method, request.path)
        return _problem(500, code="internal", detail="offhost failed unexpectedly", hint="its log has the details")


def _status(error: OffhostError) -> int:
    match error:
        case NotFound():
            return 404
        case Conflict():
            return 409
        case UsageError():
            return 400
        case _:
            return 500


def _problem(status: int, *, code: str, detail: str, hint: str | None) -> web.Response:
    body = {"status": status, "title": code.replace("_", " "), "code": code, "detail": detail, "hint": hint}
    return web.json_response(body, status=status, content_type="application/problem+json")
