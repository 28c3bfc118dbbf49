"""Opening: which key wrappers are tried with a secret, and whether what they hold fits the repository.

Owns: the order and the bounds of trying; that an encrypted repository is never taken for an unencrypted one, nor the
other way round. Does not own: the wrappers' form (wrappers), making and removing them (access).
"""

import logging
import re
import secrets
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from offhost.backend.contract import Backend
from offhost.errors import (
    BackendError,
    IntegrityError,
    NoRepository,
    ObjectNotFound,
    OffhostError,
    PackCorrupt,
    WrongKey,
)
from offhost.repository.keys.credentials import Passphrase, Unencrypted, Unlock
from offhost.repository.keys.keyring import Keyring, derived
from offhost.repository.keys.wrappers import SALT_BYTES, WRAPPER_LIMIT_BYTES, Argon2Cost, Stretch, Wrapper, parsed
from offhost.repository.objects.configuration import FIRST_CONFIG, RepositoryConfig, SealedConfig, config_in_force
from offhost.repository.objects.sealed import SALT_AT
from offhost.repository.objects.sealed import SALT_BYTES as OBJECT_SALT_BYTES

_log = logging.getLogger(__name__)

WRAPPERS_LIMIT = 100_000
"""Wrappers looked at: reading a wrapper costs little, and whoever plants more can as well remove the true ones."""

_STRETCHES_LIMIT = 64
_WORK_LIMIT = 2 * Argon2Cost(16, 1 << 20, 1).work
"""Bounds on what wrappers that somebody planted can cost: some twenty seconds. A true one comes first."""

_NAME = re.compile(r"keys/([0-9a-f]{32})")
_NAMES = {
    "passphrase": ("passphrase", "passphrases"),
    "keyfile": ("key file", "key files"),
    "recovery": ("recovery key", "recovery keys"),
}


@dataclass(frozen=True, slots=True)
class Opened:
    """What a secret opened."""

    wrapper: str
    keyring: Keyring
    config: RepositoryConfig


def open_keyring(backend: Backend, unlock: Unlock) -> Opened:
    """Open a repository's keyring, with the configuration in force.

    Raises: NoRepository; WrongKey, also where encryption is not as the way to open it says; FormatTooNew; PackCorrupt;
    BackendError when a wrapper that might have opened it could not be read.
    """
    while True:
        sealed = config_in_force(backend)
        try:
            return _open_under(sealed, backend, unlock)
        except (NoRepository, WrongKey, IntegrityError):
            if config_in_force(backend).name == sealed.name:  # else a new key epoch began at this moment
                raise


def _open_under(sealed: SealedConfig, backend: Backend, unlock: Unlock) -> Opened:
    survey = _survey(backend, unlock)
    misfit: OffhostError | None = None
    for wrapper, keyring in _opened(backend, unlock, survey):
        try:
            config = _fitting(sealed, unlock, keyring)
        except (WrongKey, IntegrityError) as error:  # another wrapper of the same secret may fit
            misfit = misfit or error
            continue
        if config.encrypted and survey.kinds[Unencrypted.kind]:
            _log.warning("%s: a key wrapper that needs no secret was put into it; it is not used", backend.location)
        return Opened(wrapper.id, keyring, config)
    if survey.hindrance:
        raise survey.hindrance
    if misfit and not (isinstance(unlock, Unencrypted) and any(survey.kinds[kind] for kind in _NAMES)):
        raise misfit
    raise _refusal(backend, unlock, survey) from misfit


@dataclass(slots=True)
class _Survey:
    """The wrappers of a repository: how many of each kind, and which can be tried."""

    kinds: Counter[str] = field(default_factory=Counter)
    candidates: dict[Stretch | None, list[str]] = field(default_factory=dict)
    """Those of the right kind; passphrases by their stretch, which is what trying them costs."""
    untried: int = 0
    damaged: int = 0
    hindrance: OffhostError | None = None
    """Why one that might have opened it could not be tried."""


def _survey(backend: Backend, unlock: Unlock) -> _Survey:
    survey = _Survey()
    for wrapper_id in wrapper_ids(backend):
        try:
            wrapper = read_wrapper(backend, wrapper_id)
        except ObjectNotFound:
            continue  # removed since it was listed
        except IntegrityError as error:  # must not shut out those whose own is whole
            survey.damaged += 1
            if survey.damaged == 1:
                _log.warning("a key wrapper cannot be read: %s", error)
            continue
        except BackendError as error:
            survey.hindrance = error
            continue
        survey.kinds[wrapper.kind] += 1
        if wrapper.kind == unlock.kind:
            alike = wrapper.stretch if isinstance(unlock, Passphrase) else None
            survey.candidates.setdefault(alike, []).append(wrapper.id)
    return survey


def wrapper_ids(backend: Backend) -> list[str]:
    """The ids of the wrappers there are, in order."""
    found = (_NAME.fullmatch(item.name) for item in backend.list("keys/"))
    return sorted(name[1] for name in found if name)[:WRAPPERS_LIMIT]


def read_wrapper(backend: Backend, wrapper_id: str) -> Wrapper:
    """One wrapper. Raises: ObjectNotFound; PackCorrupt."""
    return parsed(wrapper_id, backend.get(f"keys/{wrapper_id}", WRAPPER_LIMIT_BYTES))


def passphrase_salt(backend: Backend) -> bytes:
    """The one salt for passphrases of a repository, from its first configuration object, which never changes.

    Wrappers carry their salt themselves; that all of a repository's have this one lets one stretch try them all,
    and lets those that somebody else planted, with salts of their own, wait. Random where that object is gone.
    """
    try:
        return salt_of(backend.get_range(FIRST_CONFIG, 0, SALT_AT + OBJECT_SALT_BYTES))
    except (BackendError, IntegrityError):
        return secrets.token_bytes(SALT_BYTES)


def salt_of(first_config: bytes) -> bytes:
    """The salt for passphrases that belongs to a first configuration object."""
    return derived("offhost 1 passphrase salt", first_config[SALT_AT : SALT_AT + OBJECT_SALT_BYTES])[:SALT_BYTES]


def _opened(backend: Backend, unlock: Unlock, survey: _Survey) -> Iterator[tuple[Wrapper, Keyring]]:
    """Every keyring that the secret opens, or that lies in the open when that is asked for."""
    for stretch, ids in _affordable(backend, survey):
        try:
            key = stretch.key(unlock) if stretch and isinstance(unlock, Passphrase) else None
        except PackCorrupt as error:
            survey.hindrance = error
            continue
        for wrapper_id in ids:
            try:
                wrapper = read_wrapper(backend, wrapper_id)
                keyring = _keyring_in(wrapper, unlock, key)
            except ObjectNotFound:
                continue  # removed since it was listed
            except (IntegrityError, BackendError) as error:
                survey.hindrance = error
                continue
            if keyring:
                yield wrapper, keyring


def _keyring_in(wrapper: Wrapper, unlock: Unlock, key: bytes | None) -> Keyring | None:
    if wrapper.kind != unlock.kind:  # not what it was a moment ago
        return None
    if isinstance(unlock, Unencrypted):
        return wrapper.open_plain()
    assert wrapper.stretch
    return wrapper.open(key or wrapper.stretch.key(unlock))


def _affordable(backend: Backend, survey: _Survey) -> Iterator[tuple[Stretch | None, list[str]]]:
    """What may be tried, the likely and cheap first: the repository's own salt is not everybody's to choose."""
    own = passphrase_salt(backend) if len(survey.candidates) > 1 else b""
    tried = work = 0
    for stretch, ids in sorted(survey.candidates.items(), key=lambda item: _turn(item[0], own)):
        cost = stretch.cost.work if stretch and stretch.cost else 0
        if tried and (tried >= _STRETCHES_LIMIT or work + cost > _WORK_LIMIT):
            survey.untried += len(ids)
            continue
        tried, work = tried + 1, work + cost
        yield stretch, ids


def _turn(stretch: Stretch | None, own: bytes) -> tuple[int, int, bytes]:
    if stretch is None or stretch.cost is None:
        return 0, 0, b""
    unlikely = 2 * (stretch.salt != own) + (stretch.cost != Argon2Cost())
    return unlikely, stretch.cost.work, stretch.salt


def _fitting(sealed: SealedConfig, unlock: Unlock, keyring: Keyring) -> RepositoryConfig:
    """The configuration that a keyring opens. Raises: WrongKey, PackCorrupt when it is not this repository's now."""
    config = sealed.open(keyring)
    if config.encrypted and isinstance(unlock, Unencrypted):
        raise WrongKey(
            f"{sealed.location}: is encrypted; somebody put a key wrapper that needs no secret into it",
            hint="open it with its secret, and remove that wrapper: `offhost keys remove`",
        )
    if not config.encrypted and not isinstance(unlock, Unencrypted):
        raise WrongKey(
            f"{sealed.location}: is not encrypted by its own configuration, yet a secret was put on it",
            hint="if it is meant to be unencrypted, say so: --unencrypted, or `encryption: none` in proxy.yaml",
        )
    return config


def _refusal(backend: Backend, unlock: Unlock, survey: _Survey) -> OffhostError:
    """Why nothing opened it, in terms of what would."""
    where, has = backend.location, _has(survey)
    if not has:
        return NoRepository(
            f"{where}: its key wrappers are gone, and without one nothing in it can be read",
            hint="bring keys/ back from a copy of the repository",
        )
    if isinstance(unlock, Unencrypted):
        return WrongKey(
            f"{where}: is encrypted, and was to be opened without a secret: it has {has}",
            hint="give its passphrase (OFFHOST_PASSPHRASE, --passphrase-file), key file or recovery key",
        )
    if set(survey.kinds) == {Unencrypted.kind}:
        return WrongKey(
            f"{where}: its keys lie in the open, and a {unlock.name} was given: refused",
            hint="if it was made unencrypted, say so: --unencrypted, or `encryption: none` in proxy.yaml; "
            "if it was made with a secret, somebody has replaced its keys",
        )
    if not survey.kinds[unlock.kind]:
        return WrongKey(f"{where}: no {unlock.name} opens it: it has {has}", hint="use one of those")
    if survey.untried:
        return WrongKey(
            f"{where}: the {unlock.name} opens none of the key wrappers tried, and {survey.untried} were not tried: "
            "they ask for too much work",
            hint="somebody may have put them there; remove from keys/ what is not the repository's own",
        )
    return WrongKey(
        f"{where}: the {unlock.name} does not open it: it has {has}",
        hint=f"check the {unlock.name}, and its file" if unlock.kind == "passphrase" else "is it this repository's?",
    )


def _has(survey: _Survey) -> str:
    """What a repository can be opened with, in words; nothing when it has no wrapper at all."""
    kinds = survey.kinds
    told = [f"{kinds[kind]} {names[kinds[kind] > 1]}" for kind, names in _NAMES.items() if kinds[kind]]
    if kinds[Unencrypted.kind]:
        told.append(f"{kinds[Unencrypted.kind]} that needs no secret")
    if others := sum(kinds.values()) - sum(kinds[kind] for kind in (*_NAMES, Unencrypted.kind)):
        told.append(f"{others} of a kind not known here")
    if survey.damaged:
        told.append(f"{survey.damaged} that cannot be read")
    return ", ".join(told)
