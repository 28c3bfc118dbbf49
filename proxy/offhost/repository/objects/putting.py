"""Putting an object whose name nobody else uses, against a store that fails now and then.

Owns: how often that is tried. Does not own: what is put.
"""

from offhost.backend.contract import Backend
from offhost.errors import ObjectExists, OffhostError

_ATTEMPTS = 3


def put_retrying(backend: Backend, name: str, data: bytes | memoryview) -> None:
    """Put an object whose name is its alone; one that is there already was put by an attempt whose reply was lost.

    Each attempt writes all bytes anew. Raises: what the last attempt raised.
    """
    for attempt in range(_ATTEMPTS):
        try:
            backend.put(name, data)
            break
        except ObjectExists:
            break
        except OffhostError as error:
            if not error.retry or attempt == _ATTEMPTS - 1:
                raise
