"""A repository as far as its restore points: what tells them needs the key, and no chunk.

Owns: what can be asked without the index. Does not own: the chunks (repository).
It imports nothing that handles them: who only lists points waits for a passphrase to be stretched, and little else.
"""

from pathlib import Path

from offhost.backend.contract import Backend
from offhost.backend.local import LocalBackend
from offhost.clock import Clock, SystemClock
from offhost.repository.keys.credentials import Unlock
from offhost.repository.keys.keyring import Keyring
from offhost.repository.objects.configuration import config_in_force, read_config
from offhost.repository.objects.graves import Graveyard
from offhost.repository.objects.marks import Marks
from offhost.repository.opening import open_keyring
from offhost.repository.points.listing import Points


class UnlockedRepository:
    """A repository whose points, marks and verdicts can be read, and points be forgotten and pinned. Thread-safe."""

    def __init__(
        self, backend: Backend, keyring: Keyring, clock: Clock | None = None, *, unlock: Unlock | None = None
    ) -> None:
        self.backend, self.keyring, self._unlock = backend, keyring, unlock
        self.clock = clock or SystemClock()
        self.config = read_config(backend, keyring)
        self.graveyard = Graveyard(backend, keyring)
        self.marks = Marks(backend, keyring, self.clock)
        self.points = Points(backend, keyring, self.graveyard, self.marks)

    def refresh_keys(self) -> None:
        """Learn the configuration in force, and a key epoch that another process has begun.

        Raises: WrongKey when what opened the repository does not open the new epoch; FormatTooNew; PackCorrupt.
        """
        sealed = config_in_force(self.backend)
        if self._unlock and sealed.epoch > self.keyring.epoch:
            self.keyring.learn(open_keyring(self.backend, self._unlock).keyring)
        self.config = sealed.open(self.keyring)


def unlock(root: Path, unlock: Unlock) -> UnlockedRepository:
    """Open a directory without its chunks. Raises: NoRepository, WrongKey, FormatTooNew; IntegrityError."""
    backend = LocalBackend(root)
    return UnlockedRepository(backend, open_keyring(backend, unlock).keyring, unlock=unlock)
