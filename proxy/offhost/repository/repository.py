"""A repository: made, opened, and what is done with it as a whole.

Owns: making one, opening one with its chunks, sessions over one VM. Does not own: anything below it.
"""

import logging
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from offhost.backend.contract import Backend
from offhost.backend.local import LocalBackend
from offhost.clock import Clock, SystemClock, rfc3339
from offhost.errors import BackendError, Conflict, ObjectExists, OffhostError
from offhost.ids import VmId
from offhost.repository.chunks.packer import WriteCheck
from offhost.repository.chunks.reading import PackReader
from offhost.repository.chunks.store import ChunkStore
from offhost.repository.keys.credentials import Unencrypted, Unlock
from offhost.repository.keys.keyring import KEY_BYTES, Keyring
from offhost.repository.keys.wrappers import Argon2Cost, wrap
from offhost.repository.objects.configuration import first_config
from offhost.repository.objects.presence import Presence
from offhost.repository.opening import open_keyring, salt_of
from offhost.repository.points.manifest import Manifest
from offhost.repository.points.restorepoint import RestorePoint
from offhost.repository.session import WriteSession
from offhost.repository.unlocked import UnlockedRepository

_log = logging.getLogger(__name__)

_FOLDERS = ["config", "keys", "index", "points", "sessions", "condemned", "sweeps", "marks"]
_PACK_FOLDERS = [f"packs/{number:02x}" for number in range(256)]


def create(
    root: Path,
    unlock: Unlock,
    *,
    clock: Clock | None = None,
    cost: Argon2Cost | None = None,
    cut_secret: bytes | None = None,
) -> None:
    """Make a repository in a directory that is empty or not there yet.

    `unlock` is what opens it from then on; Unencrypted leaves its keys in the open. `cut_secret` (32 bytes) is that of
    a repository whose cuts this one is to share. Raises: Conflict when something is there already; BackendError.
    """
    if root.exists() and any(root.iterdir()):
        raise Conflict(f"{root}: not empty", hint="a repository is made in an empty or new directory")
    backend = LocalBackend.create(root, _FOLDERS + _PACK_FOLDERS)
    _probe(backend)
    keyring, created = Keyring.new(), rfc3339((clock or SystemClock()).now())
    name, config = first_config(
        keyring,
        cut_secret=cut_secret or secrets.token_bytes(KEY_BYTES),
        encrypted=not isinstance(unlock, Unencrypted),
        created=created,
    )
    salt = salt_of(config)
    wrapper_id, wrapper = wrap(keyring, unlock, label="", created=created, salt=salt, cost=cost or Argon2Cost())
    backend.put(f"keys/{wrapper_id}", wrapper)
    backend.put(name, config)


def _probe(backend: LocalBackend) -> None:
    """Refuse a place where creation is not atomic or a listing does not show what was just put."""
    name = f"marks/probe-{secrets.token_hex(8)}"
    backend.put(name, b"probe")
    try:
        backend.put(name, b"another")
    except ObjectExists:
        if name in {item.name for item in backend.list("marks/")} and backend.get(name, 64) == b"probe":
            backend.delete(name)
            return
    raise Conflict(f"{backend.location}: objects cannot be created atomically here", hint="choose another file system")


class Repository(UnlockedRepository):
    """An open repository. Thread-safe; close it, or use it as a context."""

    def __init__(
        self,
        backend: Backend,
        keyring: Keyring,
        cache: Path | None = None,
        clock: Clock | None = None,
        *,
        unlock: Unlock | None = None,
    ) -> None:
        super().__init__(backend, keyring, clock, unlock=unlock)
        self.store = ChunkStore(
            backend,
            keyring,
            graveyard=self.graveyard,
            marks=self.marks,
            cache=cache / keyring.repository_id.hex() if cache else None,
        )
        self.reader = PackReader(backend, keyring, self.store.index, self.store.hands)

    @classmethod
    def open(cls, root: Path, unlock: Unlock, *, cache: Path | None = None, clock: Clock | None = None) -> "Repository":
        """Open a directory. `cache` is where index copies may be kept.

        Raises: NoRepository, WrongKey, FormatTooNew; IntegrityError.
        """
        backend = LocalBackend(root)
        backend.sweep_temporary()
        repository = cls(backend, open_keyring(backend, unlock).keyring, cache, clock, unlock=unlock)
        try:
            repository.refresh()
        except BaseException:
            repository.close()
            raise
        return repository

    def refresh(self, *, for_writing: bool = False) -> None:
        """Learn what other processes have stored since, and the keys they did it with; see `ChunkStore.refresh`."""
        self.refresh_keys()
        self.store.refresh(for_writing=for_writing)

    def check_collectable(self) -> None:
        """Refuse to collect under a configuration, read anew, that this version does not know. Raises: FormatTooNew."""
        self.refresh_keys()
        self.config.check_collectable()

    @contextmanager
    def session(self, vm: VmId, check: WriteCheck = "full") -> Iterator[tuple[WriteSession, RestorePoint | None]]:
        """A write session for a VM, and the VM's latest point to build on.

        The order is the protocol's: reserve, look at what is condemned, then choose the base.
        """
        self.backend.check_writable()
        with (
            self.store.hands.at_work(),
            WriteSession(
                self.backend, self.keyring, self.store, self.graveyard, vm=vm, clock=self.clock, check=check
            ) as session,
        ):
            session.open()
            self.refresh(for_writing=True)
            session.sound_under = self.store.damage_known()
            latest = self.points.latest(vm)
            yield session, self.restore_point(latest) if latest else None

    def restore_point(self, manifest: Manifest) -> RestorePoint:
        """A point, to be read by whoever holds a session of its VM, or reads metadata alone."""
        return RestorePoint(manifest, self.reader, self.store.metadata_id_key)

    @contextmanager
    def reading(self, manifest: Manifest) -> Iterator[RestorePoint]:
        """A point, kept from collection while it is read, where that can be put down.

        Raises: Conflict when the collector is about to remove it.
        """
        with self.store.hands.at_work(), self._held(manifest) as point:
            yield point

    @contextmanager
    def _held(self, manifest: Manifest) -> Iterator[RestorePoint]:
        presence = Presence(self.backend, self.keyring, manifest.vm_id, self.clock)
        try:
            presence.begin("read", f"{presence.folder}/{manifest.id}")
        except BackendError as error:  # read-only, full or failing: reading must still be possible
            _log.warning("reading without a session, which a collector elsewhere would not see: %s", error)
            yield self.restore_point(manifest)
            return
        try:
            graves = self.graveyard.read_tolerant()
            if manifest.id in graves.condemned_points | graves.swept_points:
                raise Conflict(f"point {manifest.id[:12]} is being collected")
            self.refresh()
            yield self.restore_point(manifest)
        finally:
            with suppress(OffhostError):  # what was found damaged: the next backup heals it, if it can be marked
                self.store.mark_distrusted()
            presence.leave()

    def close(self) -> None:
        """Wait for what is on its way."""
        self.store.hands.close()
        self.store.close()

    def __enter__(self) -> "Repository":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
