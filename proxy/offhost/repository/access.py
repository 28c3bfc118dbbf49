"""Who can open a repository: the key wrappers, listed, added and removed, and a new key epoch.

Owns: the order of the steps, which at any moment leaves a way in that is durable. Does not own: the wrappers' form
(wrappers), which of them open it (opening), who confirms a removal (cli).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from offhost.backend.contract import Backend
from offhost.backend.local import LocalBackend
from offhost.clock import Clock, SystemClock, rfc3339
from offhost.errors import (
    BackendError,
    Conflict,
    IntegrityError,
    NotFound,
    ObjectExists,
    ObjectNotFound,
    PackCorrupt,
    WrongKey,
)
from offhost.repository.keys.credentials import Secret, Unencrypted, Unlock
from offhost.repository.keys.keyring import EPOCHS_LIMIT, Keyring
from offhost.repository.keys.wrappers import LABEL_LIMIT, WRAPPER_LIMIT_BYTES, Argon2Cost, Wrapper, parsed, wrap
from offhost.repository.objects.configuration import config_in_force
from offhost.repository.objects.sealed import PAYLOAD_LIMIT_BYTES
from offhost.repository.opening import (
    Opened,
    open_keyring,
    passphrase_salt,
    read_wrapper,
    wrapper_ids,
)

Standing: TypeAlias = Literal["good", "outdated", "unfinished", "unmarked", "unknown"]
"""A way in is good, of an epoch that is past, of one whose beginning was cut short, made by a version that did not sign
it, or none of ours at all."""


@dataclass(frozen=True, slots=True)
class WayIn:
    """A key wrapper, told from what a holder of the keys said of it."""

    id: str
    kind: str
    label: str
    created: str | None
    epoch: int | None
    standing: Standing
    in_use: bool


@dataclass(frozen=True, slots=True)
class Rotation:
    """What a new epoch would do: the secrets that get new wrappers, what these replace, and which ways in are lost."""

    kept: tuple[tuple[Secret, tuple[WayIn, ...]], ...]
    dropped: tuple[WayIn, ...]


class Access:
    """The key wrappers of a repository that one of them has opened. Not thread-safe."""

    def __init__(self, backend: Backend, unlock: Unlock, clock: Clock | None = None) -> None:
        """Raises: NoRepository, WrongKey, FormatTooNew; IntegrityError."""
        self._backend, self._unlock, self._clock = backend, unlock, clock or SystemClock()
        self._opened: Opened = open_keyring(backend, unlock)

    @classmethod
    def open(cls, root: Path, unlock: Unlock) -> "Access":
        """Open a directory's."""
        return cls(LocalBackend(root), unlock)

    @property
    def encrypted(self) -> bool:
        """Whether the repository is."""
        return self._opened.config.encrypted

    def ways(self) -> list[WayIn]:
        """Every wrapper there is, the oldest first."""
        found = [way for wrapper_id in wrapper_ids(self._backend) if (way := self._told(wrapper_id))]
        return sorted(found, key=lambda way: (way.created or "", way.id))

    def _told(self, wrapper_id: str) -> WayIn | None:
        try:
            wrapper = read_wrapper(self._backend, wrapper_id)
        except ObjectNotFound:
            return None
        except IntegrityError:
            return WayIn(wrapper_id, "unreadable", "", None, None, "unknown", in_use=False)
        in_use = wrapper_id == self._opened.wrapper
        standing = "good" if in_use else self._standing(wrapper)
        if standing == "unknown":  # then nothing that it says is to be believed
            return WayIn(wrapper_id, wrapper.kind, "", None, None, standing, in_use)
        return WayIn(wrapper_id, wrapper.kind, wrapper.label, wrapper.created, wrapper.epoch, standing, in_use)

    def _standing(self, wrapper: Wrapper) -> Standing:
        if not wrapper.known or (wrapper.kind == Unencrypted.kind) == self.encrypted:
            return "unknown"
        match wrapper.genuine(self._opened.keyring):
            case None:
                return "unmarked"
            case False:
                return "unknown"
            case True:
                return self._timeliness(wrapper.epoch)

    def _timeliness(self, epoch: int | None) -> Standing:
        in_force = self._opened.keyring.epoch
        if epoch == in_force:
            return "good"
        return "unfinished" if epoch and epoch > in_force else "outdated"

    def find(self, text: str) -> WayIn:
        """The wrapper of that id, or of the only id that begins so. Raises: NotFound."""
        found = [way for way in self.ways() if text and way.id.startswith(text)]
        if len(found) != 1:
            what = "no key wrapper begins" if not found else f"{len(found)} key wrappers begin"
            raise NotFound(f"{self._backend.location}: {what} with `{text}`", hint="see `offhost keys list`")
        return found[0]

    def add(self, secret: Unlock, *, label: str = "", cost: Argon2Cost | None = None) -> WayIn:
        """Let a further secret open the repository; returns once that is durable. Raises: Conflict; BackendError."""
        if not self.encrypted:
            raise Conflict(
                f"{self._backend.location}: is not encrypted: a secret would protect nothing",
                hint="make an encrypted repository, and copy the restore points there: `offhost copy`",
            )
        if isinstance(secret, Unencrypted):
            raise Conflict(f"{self._backend.location}: is encrypted, and its keys are never put in the open")
        with self._taken_back_on_failure() as made:
            way = self._put(self._opened.keyring, secret, label, cost=cost, made=made)
            if config_in_force(self._backend).epoch != self._opened.keyring.epoch:
                raise Conflict("a new key epoch began at the same moment", hint="run it again")
        return way

    @contextmanager
    def _taken_back_on_failure(self) -> Iterator[list[str]]:
        """The ids of wrappers being made: none may stay, and count as a way in, whose secret nobody was given."""
        made: list[str] = []
        try:
            yield made
        except BaseException:
            with suppress(BackendError):
                self._delete(made)
            raise

    def _put(self, keyring: Keyring, secret: Secret, label: str, *, cost: Argon2Cost | None, made: list[str]) -> WayIn:
        """Put a wrapper, after opening it once: a fault of this machine must not make a key that opens nothing."""
        if len(label) > LABEL_LIMIT:
            raise Conflict(f"a label of {len(label)} characters", hint=f"at most {LABEL_LIMIT}")
        salt, created = passphrase_salt(self._backend), rfc3339(self._clock.now())
        wrapper_id, data = wrap(keyring, secret, label=label, created=created, salt=salt, cost=cost or Argon2Cost())
        wrapper = parsed(wrapper_id, data)
        if not wrapper.stretch or wrapper.open(wrapper.stretch.key(secret)) != keyring:
            raise PackCorrupt("a key wrapper does not open right after it was made: is this machine's memory sound?")
        made.append(wrapper_id)
        try:
            self._backend.put(f"keys/{wrapper_id}", data)
        except ObjectExists:
            if self._backend.get(f"keys/{wrapper_id}", WRAPPER_LIMIT_BYTES) != data:  # else a put's reply was lost
                raise
        return WayIn(wrapper_id, secret.kind, label, created, keyring.epoch, "good", in_use=False)

    def remove(self, way: WayIn) -> None:
        """Take a way in away; never the last. What it opened stays known to who has opened it: see `rotate`.

        Raises: Conflict; BackendError.
        """
        data = self._backend.get(f"keys/{way.id}", PAYLOAD_LIMIT_BYTES)
        self.check_removable(way)
        self._backend.delete(f"keys/{way.id}")
        if not self._others_remain(way):  # somebody removed the other one at this moment
            self._backend.put(f"keys/{way.id}", data)
            raise Conflict("the last other key wrapper was removed at the same moment", hint="see `offhost keys list`")

    def check_removable(self, way: WayIn) -> None:
        """Raises: Conflict when it is the last one."""
        if not self._others_remain(way):
            raise Conflict(
                f"key wrapper {way.id[:8]} is the last one that opens {self._backend.location}",
                hint="add another first: `offhost keys add`" if self.encrypted else "without it nothing can be read",
            )

    def _others_remain(self, way: WayIn) -> bool:
        return any(other.standing == "good" for other in self.ways() if other.id != way.id)

    def rotation(self, others: Sequence[Secret]) -> Rotation:
        """What a new epoch would do when, besides the secret in use, these are at hand.

        Raises: Conflict; WrongKey when one of them opens nothing here.
        """
        if not self.encrypted or isinstance(self._unlock, Unencrypted):
            raise Conflict(f"{self._backend.location}: is not encrypted: its keys are no secret")
        if len(self._opened.keyring.epochs) >= EPOCHS_LIMIT:
            raise Conflict(f"{self._backend.location}: has had {EPOCHS_LIMIT} key epochs, as many as there can be")
        ways = [way for way in self.ways() if way.standing != "unknown"]
        kept = [(secret, self._opened_by(secret, ways)) for secret in (self._unlock, *others)]
        names = {way.id for _, replaced in kept for way in replaced}
        return Rotation(tuple(kept), tuple(way for way in ways if way.id not in names))

    def _opened_by(self, secret: Secret, ways: Sequence[WayIn]) -> tuple[WayIn, ...]:
        found = tuple(way for way in ways if way.kind == secret.kind and self._opens(way, secret))
        if not found:
            raise WrongKey(f"{self._backend.location}: a {secret.name} to be kept does not open it")
        return found

    def _opens(self, way: WayIn, secret: Secret) -> bool:
        wrapper = read_wrapper(self._backend, way.id)
        return wrapper.stretch is not None and wrapper.open(wrapper.stretch.key(secret)) is not None

    def rotate(self, rotation: Rotation, cost: Argon2Cost | None = None) -> list[WayIn]:
        """Begin a new key epoch: all that is written from now on is sealed with a key that nobody knew before.

        The order: the new wrappers are durable before the configuration names the epoch, and that before anything is
        sealed with it or an old wrapper goes. Returns the ways in that are left. Raises: Conflict; BackendError, after
        which the repository opens as before, or with the kept secrets anew.
        """
        newer = self._opened.keyring.with_new_epoch()
        with self._taken_back_on_failure() as made:
            for secret, replaced in rotation.kept:
                self._put(newer, secret, replaced[-1].label, cost=cost, made=made)
        self._put_in_force(newer, made)
        self._opened = open_keyring(self._backend, self._unlock)
        gone = {way.id for _, replaced in rotation.kept for way in replaced} | {way.id for way in rotation.dropped}
        self._delete([way.id for way in self.ways() if way.id in gone or way.standing == "outdated"])
        return self.ways()

    def _put_in_force(self, newer: Keyring, made: Sequence[str]) -> None:
        """The step that decides: before it the old epoch is in force, after it the new one."""
        name, data = self._opened.config.successor(newer, {"epoch_began": rfc3339(self._clock.now())})
        try:
            self._backend.put(name, data)
        except ObjectExists:
            if self._backend.get(name, PAYLOAD_LIMIT_BYTES) != data:  # else an earlier put's reply was lost
                self._delete(made)
                raise Conflict("the configuration was changed at the same moment", hint="run it again") from None

    def _delete(self, wrapper_ids: Sequence[str]) -> None:
        for wrapper_id in wrapper_ids:
            self._backend.delete(f"keys/{wrapper_id}")
