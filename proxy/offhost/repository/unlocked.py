"""A repository as far as its restore points: what tells them needs the key, and no chunk.

Owns: unlocking with a passphrase; what can be asked without the index. Does not own: the chunks (repository).
It imports nothing that handles them: who only lists points waits for the passphrase to be stretched, and little else.
"""

import logging
from pathlib import Path

from offhost.backend.contract import Backend
from offhost.backend.local import LocalBackend
from offhost.clock import Clock, SystemClock
from offhost.errors import BackendError, NoRepository, PackCorrupt, WrongKey
from offhost.repository.configuration import read_config
from offhost.repository.graves import Graveyard
from offhost.repository.keys import WRAPPER_LIMIT_BYTES, Keyring, unwrap
from offhost.repository.marks import Marks
from offhost.repository.points import Points

_log = logging.getLogger(__name__)

_WRAPPERS_TRIED = 64


class UnlockedRepository:
    """A repository whose points, marks and verdicts can be read, and points be forgotten and pinned. Thread-safe."""

    def __init__(self, backend: Backend, keyring: Keyring, clock: Clock | None = None) -> None:
        self.backend, self.keyring = backend, keyring
        self.clock = clock or SystemClock()
        self.config = read_config(backend, keyring)
        self.graveyard = Graveyard(backend, keyring)
        self.marks = Marks(backend, keyring, self.clock)
        self.points = Points(backend, keyring, self.graveyard, self.marks)


def unlock(root: Path, passphrase: str) -> UnlockedRepository:
    """Open a directory without its chunks. Raises: NoRepository, WrongKey, FormatTooNew; IntegrityError."""
    backend = LocalBackend(root)
    return UnlockedRepository(backend, keyring_of(backend, passphrase))


def keyring_of(backend: LocalBackend, passphrase: str) -> Keyring:
    """The keyring that a passphrase opens. Raises: NoRepository, WrongKey."""
    names = [item.name for item in backend.list("keys/")]
    if not names or not any(True for _ in backend.list("config/")):
        raise NoRepository(
            f"{backend.location}: not an offhost repository", hint="`offhost --repo DIR repo init` makes one"
        )
    for name in sorted(names)[:_WRAPPERS_TRIED]:
        try:
            keyring = unwrap(name.rpartition("/")[2], backend.get(name, WRAPPER_LIMIT_BYTES), passphrase)
        except (PackCorrupt, BackendError) as error:  # a bad wrapper must not shut out those whose own is whole
            _log.warning("%s", error)
            continue
        if keyring:
            return keyring
    raise WrongKey(f"{backend.location}: the passphrase does not open it", hint="check the passphrase, and its file")
