"""A repository: made, opened, and what is done with it as a whole.

Owns: the configuration object, opening with a key, sessions over one VM. Does not own: anything below it.
"""

import logging
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from offhost.backend.contract import Backend
from offhost.backend.local import LocalBackend
from offhost.clock import Clock, SystemClock
from offhost.errors import (
    BackendError,
    Conflict,
    FormatTooNew,
    NoRepository,
    ObjectExists,
    PackCorrupt,
    WrongKey,
)
from offhost.ids import VmId
from offhost.repository.graves import Graveyard
from offhost.repository.keys import WRAPPER_LIMIT_BYTES, Argon2Cost, Keyring, unwrap
from offhost.repository.manifest import Manifest
from offhost.repository.marks import Marks
from offhost.repository.packer import WriteCheck
from offhost.repository.points import Points
from offhost.repository.presence import Presence
from offhost.repository.reading import PackReader
from offhost.repository.restorepoint import RestorePoint
from offhost.repository.sealed import ObjectType, get_json, seal_json
from offhost.repository.session import WriteSession
from offhost.repository.store import ChunkStore

_log = logging.getLogger(__name__)

FORMAT = 1
CUTTER = "page-1"

_WRAPPERS_TRIED = 64

_FOLDERS = ["config", "keys", "index", "points", "sessions", "condemned", "sweeps", "marks"]
_PACK_FOLDERS = [f"packs/{number:02x}" for number in range(256)]


@dataclass(frozen=True, slots=True)
class RepositoryConfig:
    """The generation of `config/` in force."""

    repository_id: bytes
    cutter: str
    cut_secret: bytes = field(repr=False)


def create(root: Path, passphrase: str, *, clock: Clock | None = None, cost: Argon2Cost | None = None) -> None:
    """Make a repository in a directory that is empty or not there yet.

    Raises: Conflict when something is there already; BackendError.
    """
    if root.exists() and any(root.iterdir()):
        raise Conflict(f"{root}: not empty", hint="a repository is made in an empty or new directory")
    backend = LocalBackend.create(root, _FOLDERS + _PACK_FOLDERS)
    _probe(backend)
    keyring = Keyring.new()
    wrapper_id, wrapper = keyring.wrap(passphrase, cost or Argon2Cost())
    backend.put(f"keys/{wrapper_id}", wrapper)
    value: dict[str, Any] = {
        "format": FORMAT,
        "repository": keyring.repository_id.hex(),
        "read": [],
        "write": [],
        "collect": [],
        "suite": 1,
        "cutter": CUTTER,
        "cut_secret": secrets.token_hex(32),
        "created": (clock or SystemClock()).now().isoformat(),
    }
    name = "config/00000001"
    backend.put(name, seal_json(keyring, ObjectType.CONFIG, name, value))


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


class Repository:
    """An open repository. Thread-safe; close it, or use it as a context."""

    def __init__(
        self, backend: Backend, keyring: Keyring, cache: Path | None = None, clock: Clock | None = None
    ) -> None:
        self.backend, self.keyring = backend, keyring
        self.clock = clock or SystemClock()
        self.config = _read_config(backend, keyring)
        self.graveyard = Graveyard(backend, keyring)
        self.marks = Marks(backend, keyring, self.clock)
        self.points = Points(backend, keyring, self.graveyard, self.marks)
        self.store = ChunkStore(
            backend, keyring, self.graveyard, cache / keyring.repository_id.hex() if cache else None
        )
        self.reader = PackReader(backend, keyring, self.store.index)

    @classmethod
    def open(
        cls, root: Path, passphrase: str, *, cache: Path | None = None, clock: Clock | None = None
    ) -> "Repository":
        """Open a directory. `cache` is where index copies may be kept.

        Raises: NoRepository, WrongKey, FormatTooNew; IntegrityError.
        """
        backend = LocalBackend(root)
        backend.sweep_temporary()
        repository = cls(backend, _keyring(backend, passphrase), cache, clock)
        try:
            repository.refresh()
        except BaseException:
            repository.close()
            raise
        return repository

    def refresh(self, *, for_writing: bool = False) -> None:
        """Learn what other processes have stored since; see `ChunkStore.refresh`."""
        self.store.refresh(for_writing=for_writing)

    @contextmanager
    def session(self, vm: VmId, check: WriteCheck = "full") -> Iterator[tuple[WriteSession, RestorePoint | None]]:
        """A write session for a VM, and the VM's latest point to build on.

        The order is the protocol's: reserve, look at what is condemned, then choose the base.
        """
        self.backend.check_writable()
        with WriteSession(self.backend, self.keyring, self.store, vm=vm, clock=self.clock, check=check) as session:
            session.open()
            self.refresh(for_writing=True)
            _read_config(self.backend, self.keyring)
            latest = max(self.points.of(vm), key=lambda point: point.order, default=None)
            yield session, self.restore_point(latest) if latest else None

    def restore_point(self, manifest: Manifest) -> RestorePoint:
        """A point, to be read by whoever holds a session of its VM, or reads metadata alone."""
        return RestorePoint(manifest, self.reader, self.store.metadata_id_key)

    @contextmanager
    def reading(self, manifest: Manifest) -> Iterator[RestorePoint]:
        """A point, kept from collection while it is read, where that can be put down.

        Raises: Conflict when the collector is about to remove it.
        """
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
            presence.leave()

    def close(self) -> None:
        """Wait for what is on its way."""
        self.store.close()

    def __enter__(self) -> "Repository":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _keyring(backend: LocalBackend, passphrase: str) -> Keyring:
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


def _read_config(backend: Backend, keyring: Keyring) -> RepositoryConfig:
    """The highest generation. Raises: FormatTooNew for flags that this version does not know."""
    name = max((item.name for item in backend.list("config/")), default=None)
    if name is None:
        raise NoRepository(f"{backend.location}: its configuration is gone")
    value = get_json(backend, keyring, ObjectType.CONFIG, name)
    try:
        needs = [*value["read"], *value["write"]]
        if value["format"] > FORMAT or needs:
            wants = ", ".join(map(str, needs)) or f"format {value['format']}"
            raise FormatTooNew(f"{backend.location}: made by a newer offhost ({wants})", hint="update offhost")
        if value["suite"] != 1 or bytes.fromhex(value["repository"]) != keyring.repository_id:
            raise ValueError("another repository's, or another cipher's")
        return RepositoryConfig(keyring.repository_id, str(value["cutter"]), bytes.fromhex(value["cut_secret"]))
    except (KeyError, TypeError, ValueError) as error:
        raise PackCorrupt(f"{name}: not a configuration: {error!r}") from error
