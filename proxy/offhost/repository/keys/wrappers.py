"""Key wrappers: the keyring, closed by one secret each; the only objects that are not sealed.

Owns: FORMAT.md, "Key wrappers". Does not own: which of them are tried (opening), made and removed (access).
"""

import json
import secrets
import unicodedata
from dataclasses import dataclass, field
from typing import Any

import argon2.exceptions
import argon2.low_level
import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from offhost.errors import PackCorrupt
from offhost.repository.keys.credentials import Passphrase, Secret, Unencrypted, Unlock
from offhost.repository.keys.keyfile import KeyFile
from offhost.repository.keys.keyring import KEY_BYTES, Keyring, derived
from offhost.repository.keys.recoverykey import RecoveryKey

WRAPPER_LIMIT_BYTES = 16 << 10
SALT_BYTES = 16

_FORMAT = 1
_CONTEXT = b"offhost key wrapper 1"
_TAG_CONTEXT = "offhost 1 key wrapper tag key"
LABEL_LIMIT = 200
"""Characters of a label."""
_KNOWN_KINDS = {way.kind for way in (Passphrase, KeyFile, RecoveryKey, Unencrypted)}


@dataclass(frozen=True, slots=True)
class Argon2Cost:
    """What a guess of the passphrase costs (RFC 9106); the default is its second recommended option."""

    time: int = 3
    memory_kib: int = 65536
    lanes: int = 4

    @property
    def work(self) -> int:
        """How long it takes, in kibibytes passed over."""
        return self.time * self.memory_kib

    def bounded(self) -> bool:
        """Whether a wrapper may ask for this: a hostile one must not exhaust the machine."""
        return 1 <= self.time <= 16 and 8 << 10 <= self.memory_kib <= 1 << 20 and 1 <= self.lanes <= 16


@dataclass(frozen=True, slots=True)
class Stretch:
    """How a secret becomes the key of a wrapper. One result serves all wrappers that agree in this."""

    salt: bytes
    cost: Argon2Cost | None
    """None for secrets that are random and need no stretching."""

    def key(self, secret: Secret) -> bytes:
        """The wrapping key. Raises: PackCorrupt when the machine cannot do what a wrapper asks for."""
        if self.cost is None:
            assert not isinstance(secret, Passphrase)
            return derived(f"offhost 1 {secret.kind} wrapping key", secret.key, self.salt)
        assert isinstance(secret, Passphrase)
        try:
            return argon2.low_level.hash_secret_raw(
                unicodedata.normalize("NFC", secret.text).encode(),
                self.salt,
                time_cost=self.cost.time,
                memory_cost=self.cost.memory_kib,
                parallelism=self.cost.lanes,
                hash_len=KEY_BYTES,
                type=argon2.low_level.Type.ID,
            )
        except argon2.exceptions.HashingError as error:
            raise PackCorrupt(f"a key wrapper asks for an Argon2 that is not possible here: {error}") from error


@dataclass(frozen=True, slots=True)
class Wrapper:
    """A wrapper as it lies in the repository: bounded, and not believed before its keyring is there to check it."""

    id: str
    kind: str
    label: str
    created: str | None
    epoch: int | None
    stretch: Stretch | None
    """None for a kind that no secret opens: plain, or one of a later version."""
    fields: dict[str, Any] = field(repr=False)

    @property
    def known(self) -> bool:
        """Whether this version can open its kind."""
        return self.kind in _KNOWN_KINDS

    def open(self, key: bytes) -> Keyring | None:
        """The keyring, None when the secret is another's. Raises: PackCorrupt when it holds no keyring."""
        nonce, wrapped = (bytes.fromhex(self.fields[name]) for name in ("nonce", "wrapped"))
        try:
            opened = AESGCM(key).decrypt(nonce, wrapped, _CONTEXT + self.id.encode())
        except InvalidTag:
            return None
        try:
            return Keyring.from_json(json.loads(opened))
        except (ValueError, RecursionError) as error:
            raise PackCorrupt(f"keys/{self.id}: what it wraps is not a keyring") from error

    def open_plain(self) -> Keyring:
        """The keyring of a plain wrapper, which lies in the open. Raises: PackCorrupt."""
        try:
            return Keyring.from_json(self.fields.get("keyring"))
        except ValueError as error:
            raise PackCorrupt(f"keys/{self.id}: it holds no keyring") from error

    def genuine(self, keyring: Keyring) -> bool | None:
        """Whether all it says was said by a holder of this keyring; None when it does not claim so (no tag).

        It is tagged with the epoch that it says it knows as the last: who never knew that one makes no such tag. While
        that epoch is only being begun, and not yet known here, the tag of the epoch before it serves.
        """
        if self.epoch is None or "tag" not in self.fields:
            return None
        name, epoch = ("tag", self.epoch) if self.epoch <= keyring.epoch else ("tag_before", self.epoch - 1)
        try:
            return epoch in keyring.epochs and bool(self.fields.get(name) == _tag(keyring, epoch, self.id, self.fields))
        except RecursionError:  # nested so deep that it could just be read
            return False


def wrap(
    keyring: Keyring, unlock: Unlock, *, label: str, created: str, salt: bytes, cost: Argon2Cost
) -> tuple[str, bytes]:
    """The keyring closed by a secret, or in the open: the wrapper's id and its object's bytes.

    `salt` and `cost` are for passphrases: one salt for all of a repository, so that one stretch tries them all.
    """
    wrapper_id, nonce = secrets.token_hex(16), secrets.token_bytes(12)
    fields = {"format": _FORMAT, "kind": unlock.kind, "label": label, "created": created, "epoch": keyring.epoch}
    if isinstance(unlock, Unencrypted):
        fields["keyring"] = keyring.to_json()
    else:
        stretch = (
            Stretch(salt, cost) if isinstance(unlock, Passphrase) else Stretch(secrets.token_bytes(SALT_BYTES), None)
        )
        plain = json.dumps(keyring.to_json()).encode()
        wrapped = AESGCM(stretch.key(unlock)).encrypt(nonce, plain, _CONTEXT + wrapper_id.encode())
        fields |= {"kdf": _kdf(stretch), "nonce": nonce.hex(), "wrapped": wrapped.hex()}
    tags = {"tag": _tag(keyring, keyring.epoch, wrapper_id, fields)}
    if keyring.epoch - 1 in keyring.epochs:
        tags["tag_before"] = _tag(keyring, keyring.epoch - 1, wrapper_id, fields)
    return wrapper_id, json.dumps(fields | tags).encode()


def _kdf(stretch: Stretch) -> dict[str, Any]:
    if stretch.cost is None:
        return {"name": "blake3", "salt": stretch.salt.hex()}
    cost = stretch.cost
    named = {"name": "argon2id", "salt": stretch.salt.hex()}
    return named | {"time": cost.time, "memory_kib": cost.memory_kib, "lanes": cost.lanes}


def _tag(keyring: Keyring, epoch: int, wrapper_id: str, fields: dict[str, Any]) -> str:
    """What a holder of an epoch's key says of all fields but the tags."""
    said = {name: value for name, value in fields.items() if name not in ("tag", "tag_before")}
    canonical = json.dumps(said, ensure_ascii=True, separators=(",", ":"), sort_keys=True)
    key = derived(_TAG_CONTEXT, keyring.epochs[epoch], keyring.id_key)
    return blake3.blake3(_CONTEXT + wrapper_id.encode() + canonical.encode(), key=key).hexdigest()


def parsed(wrapper_id: str, data: bytes) -> Wrapper:
    """A wrapper, hostile until checked; one of a later version has a kind that is not known.

    Raises: PackCorrupt on a malformed one, before it costs anything.
    """
    try:
        fields = json.loads(data)
        kind = fields["kind"] if fields["format"] == _FORMAT else f"format {fields['format']}"
        if not isinstance(kind, str) or len(kind) > LABEL_LIMIT:
            raise ValueError("a kind that is not a word")
        return Wrapper(
            id=wrapper_id,
            kind=kind,
            label=_text(fields.get("label")) or "",
            created=_text(fields.get("created")),
            epoch=_whole(fields["epoch"]) if "epoch" in fields else None,
            stretch=_stretch(kind, fields),
            fields=fields,
        )
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise PackCorrupt(f"keys/{wrapper_id}: not a key wrapper: {error!r}") from error


def _stretch(kind: str, fields: dict[str, Any]) -> Stretch | None:
    if kind not in _KNOWN_KINDS or kind == Unencrypted.kind:
        return None
    kdf, nonce = fields["kdf"], bytes.fromhex(fields["nonce"])
    bytes.fromhex(fields["wrapped"])
    salt = bytes.fromhex(kdf["salt"])
    cost = None
    if kind == Passphrase.kind:
        cost = Argon2Cost(_whole(kdf["time"]), _whole(kdf["memory_kib"]), _whole(kdf["lanes"]))
    if kdf["name"] != ("argon2id" if cost else "blake3") or len(salt) != SALT_BYTES or len(nonce) != 12:
        raise ValueError("unknown parameters")
    if cost and not cost.bounded():
        raise ValueError("parameters out of bounds")
    return Stretch(salt, cost)


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 32:
        raise ValueError("not a number within bounds")
    return value


def _text(value: object) -> str | None:
    if value is not None and (not isinstance(value, str) or len(value) > LABEL_LIMIT):
        raise ValueError("not a text within bounds")
    return value
