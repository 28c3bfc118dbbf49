"""The configuration of a repository: the generations of `config/`, of which the highest is in force.

Owns: FORMAT.md, "config/<n>". Does not own: the keys (keys, opening), who makes a generation (repository, access).
"""

import re
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from offhost.backend.contract import Backend
from offhost.errors import BackendError, FormatTooNew, IntegrityError, NoRepository, PackCorrupt, WrongKey
from offhost.repository.keys.keyring import KEY_BYTES, Keyring
from offhost.repository.objects.sealed import (
    HEADER_BYTES,
    PAYLOAD_LIMIT_BYTES,
    ObjectType,
    epoch_of,
    seal_json,
    unseal_json,
)

FORMAT = 1
CUTTER = "page-1"
FIRST_CONFIG = "config/00000001"

_NAME = re.compile(r"config/\d{8}")


@dataclass(frozen=True, slots=True)
class SealedConfig:
    """The generation in force as it lies there, readable with the keys of its epoch."""

    location: str
    name: str
    data: bytes = field(repr=False)

    @property
    def epoch(self) -> int:
        """The key epoch that it says seals it, and everything that is written from it on."""
        return epoch_of(self.name, self.data)

    def open(self, keyring: Keyring) -> "RepositoryConfig":
        """Read it with a keyring of its epoch.

        Raises: WrongKey for a keyring that is out of date; FormatTooNew for flags that this version does not know;
        PackCorrupt.
        """
        self._check_epoch(keyring)
        value = unseal_json(keyring, ObjectType.CONFIG, self.name, self.data)
        try:
            needs = [*value["read"], *value["write"]]
            if value["format"] > FORMAT or needs:
                wants = ", ".join(map(str, needs)) or f"format {value['format']}"
                raise FormatTooNew(f"{self.location}: made by a newer offhost ({wants})", hint="update offhost")
            if value["suite"] != 1 or bytes.fromhex(value["repository"]) != keyring.repository_id:
                raise ValueError("another repository's, or another cipher's")
            if value.get("epoch", 1) != self.epoch:
                raise ValueError("sealed with another key epoch than it names")
            encrypted = value.get("encrypted", True)
            if not isinstance(encrypted, bool):
                raise ValueError("neither encrypted nor not")
            secret = bytes.fromhex(value["cut_secret"])
            if len(secret) != KEY_BYTES:
                raise ValueError(f"a cut secret of {len(secret)} bytes")
            return RepositoryConfig(keyring.repository_id, str(value["cutter"]), secret, encrypted, self.name, value)
        except (KeyError, TypeError, ValueError) as error:
            raise PackCorrupt(f"{self.name}: not a configuration: {error!r}") from error

    def _check_epoch(self, keyring: Keyring) -> None:
        """The last epoch a keyring knows is in force: an older configuration must not bring an older key back."""
        if keyring.epoch < self.epoch:
            raise WrongKey(
                f"{self.location}: the key given is out of date: it knows key epoch {keyring.epoch}, and "
                f"{self.epoch} is in force",
                hint="use a key that was kept or added when or since the epoch began (`offhost keys rotate`)",
            )
        if keyring.epoch > self.epoch:
            raise PackCorrupt(
                f"{self.location}: {self.name} is of key epoch {self.epoch}, and the key given knows {keyring.epoch}: "
                "an older configuration was put back, or `keys rotate` was cut short",
                hint="use another key of the repository; else bring config/ back from a copy of it",
            )


@dataclass(frozen=True, slots=True)
class RepositoryConfig:
    """The generation of `config/` in force."""

    repository_id: bytes
    cutter: str
    cut_secret: bytes = field(repr=False)
    encrypted: bool = True
    name: str = FIRST_CONFIG
    value: dict[str, Any] = field(default_factory=dict, repr=False)

    def check_collectable(self) -> None:
        """Refuse to collect what a newer version may keep in a way of its own. Raises: FormatTooNew."""
        flags = self.value.get("collect")
        if flags != []:
            raise FormatTooNew(f"{self.name}: only a newer offhost may collect here ({flags})", hint="update offhost")

    def successor(self, keyring: Keyring, changes: dict[str, Any]) -> tuple[str, bytes]:
        """The next generation, sealed with the keyring's last epoch, which it puts in force."""
        name = f"config/{int(self.name.rpartition('/')[2]) + 1:08d}"
        value = self.value | changes | {"epoch": keyring.epoch}
        return name, seal_json(keyring, ObjectType.CONFIG, name, value)


def first_config(keyring: Keyring, *, cut_secret: bytes, encrypted: bool, created: str) -> tuple[str, bytes]:
    """The generation that a repository begins with."""
    if len(cut_secret) != KEY_BYTES:
        raise ValueError(f"a cut secret of {len(cut_secret)} bytes")
    name = FIRST_CONFIG
    value: dict[str, Any] = {
        "format": FORMAT,
        "repository": keyring.repository_id.hex(),
        "read": [],
        "write": [],
        "collect": [],
        "suite": 1,
        "cutter": CUTTER,
        "cut_secret": cut_secret.hex(),
        "encrypted": encrypted,
        "epoch": keyring.epoch,
        "created": created,
    }
    return name, seal_json(keyring, ObjectType.CONFIG, name, value)


def config_in_force(backend: Backend) -> SealedConfig:
    """The highest generation, not yet opened.

    Raises: NoRepository when there is none; PackCorrupt when an earlier one is of a later key epoch: who only knows
    an old key has put it there.
    """
    names = sorted(item.name for item in backend.list("config/") if _NAME.fullmatch(item.name))
    if not names:
        raise NoRepository(
            f"{backend.location}: not an offhost repository", hint="`offhost --repo DIR repo init` makes one"
        )
    sealed = SealedConfig(backend.location, names[-1], backend.get(names[-1], PAYLOAD_LIMIT_BYTES))
    for name in names[:-1]:
        with suppress(
            IntegrityError, BackendError
        ):  # a past generation that is damaged says nothing, and harms nothing
            if epoch_of(name, backend.get_range(name, 0, HEADER_BYTES)) > sealed.epoch:
                break
    else:
        return sealed
    raise PackCorrupt(
        f"{backend.location}: {sealed.name} goes back to key epoch {sealed.epoch}, and {name} was of a later one: "
        "it was put there by somebody who knows only the old key",
        hint=f"remove {sealed.name}, and find out who could write into the repository",
    )


def read_config(backend: Backend, keyring: Keyring) -> RepositoryConfig:
    """The generation in force, opened. Raises: NoRepository; FormatTooNew; PackCorrupt."""
    return config_in_force(backend).open(keyring)
