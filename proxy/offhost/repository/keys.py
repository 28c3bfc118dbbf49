"""The keyring: how it is wrapped by a passphrase, and every key that is derived from it.

Owns: FORMAT.md, "Keys". Does not own: what the keys seal (sealed, packs).
"""

import json
import secrets
import unicodedata
from dataclasses import dataclass, field

import argon2.exceptions
import argon2.low_level
import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from offhost.errors import PackCorrupt
from offhost.ids import VmId

KEY_BYTES = 32
WRAPPER_LIMIT_BYTES = 16 << 10

_WRAPPER_CONTEXT = b"offhost key wrapper 1"


@dataclass(frozen=True, slots=True)
class Argon2Cost:
    """What a guess of the passphrase costs (RFC 9106); the default is its second recommended option."""

    time: int = 3
    memory_kib: int = 65536
    lanes: int = 4

    def bounded(self) -> bool:
        """Whether a wrapper may ask for this: a hostile one must not exhaust the machine."""
        return 1 <= self.time <= 16 and 8 << 10 <= self.memory_kib <= 1 << 20 and 1 <= self.lanes <= 16


def _kdf(context: str, *material: bytes) -> bytes:
    return blake3.blake3(b"".join(material), derive_key_context=context).digest()


@dataclass(frozen=True, slots=True)
class Keyring:
    """All secrets of a repository. Never printed: the secrets are left out of its repr."""

    repository_id: bytes
    id_key: bytes = field(repr=False)
    epochs: dict[int, bytes] = field(repr=False)

    @classmethod
    def new(cls) -> "Keyring":
        """Fresh secrets for a new repository."""
        return cls(secrets.token_bytes(16), secrets.token_bytes(KEY_BYTES), {1: secrets.token_bytes(KEY_BYTES)})

    @property
    def epoch(self) -> int:
        """The epoch that seals."""
        return max(self.epochs)

    def sealing_key(self, epoch: int, kind: int, salt: bytes) -> bytes:
        """The key of one pack or object. Raises: PackCorrupt for an epoch that there is no key of."""
        if epoch not in self.epochs:
            raise PackCorrupt(f"an object says that it is sealed with key epoch {epoch}, of which there is no key")
        return _kdf("offhost 1 sealing key", self.epochs[epoch], self.repository_id, bytes([kind]), salt)

    def metadata_id_key(self) -> bytes:
        """The key of leaves' and list pages' ids."""
        return _kdf("offhost 1 metadata id key", self.id_key)

    def vm_folder(self, vm: VmId) -> str:
        """The directory name of a VM's points: who lists the repository learns no name."""
        key = _kdf("offhost 1 vm name key", self.id_key)
        return blake3.blake3(vm.encode(), key=key).digest(16).hex()

    def wrap(self, passphrase: str, cost: Argon2Cost) -> tuple[str, bytes]:
        """The keyring under a passphrase: the wrapper's id and its object's bytes."""
        wrapper_id, salt, nonce = secrets.token_hex(16), secrets.token_bytes(16), secrets.token_bytes(12)
        keyring = {
            "repository": self.repository_id.hex(),
            "id_key": self.id_key.hex(),
            "epochs": {str(epoch): key.hex() for epoch, key in self.epochs.items()},
        }
        cipher = AESGCM(_stretched(passphrase, salt, cost))
        wrapped = cipher.encrypt(nonce, json.dumps(keyring).encode(), _WRAPPER_CONTEXT + wrapper_id.encode())
        kdf = {"name": "argon2id", "salt": salt.hex(), "time": cost.time}
        wrapper = {
            "format": 1,
            "kind": "passphrase",
            "kdf": kdf | {"memory_kib": cost.memory_kib, "lanes": cost.lanes},
            "nonce": nonce.hex(),
            "wrapped": wrapped.hex(),
        }
        return wrapper_id, json.dumps(wrapper).encode()


def unwrap(wrapper_id: str, wrapper: bytes, passphrase: str) -> Keyring | None:
    """The keyring of a wrapper, None when the passphrase is another's. Raises: PackCorrupt on a malformed wrapper."""
    try:
        fields = json.loads(wrapper)
        if fields["format"] != 1 or fields["kind"] != "passphrase" or fields["kdf"]["name"] != "argon2id":
            return None  # of a later version, or opened by other means than a passphrase
        kdf = fields["kdf"]
        cost = Argon2Cost(int(kdf["time"]), int(kdf["memory_kib"]), int(kdf["lanes"]))
        salt, nonce, wrapped = (bytes.fromhex(text) for text in (kdf["salt"], fields["nonce"], fields["wrapped"]))
        if not cost.bounded() or len(salt) != 16 or len(nonce) != 12:
            raise ValueError("parameters out of bounds")
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise PackCorrupt(f"keys/{wrapper_id}: not a key wrapper: {error}") from error
    try:
        opened = AESGCM(_stretched(passphrase, salt, cost)).decrypt(
            nonce, wrapped, _WRAPPER_CONTEXT + wrapper_id.encode()
        )
    except InvalidTag:
        return None
    except argon2.exceptions.HashingError as error:
        raise PackCorrupt(f"keys/{wrapper_id}: its parameters are refused: {error}") from error
    keyring = json.loads(opened)
    epochs = {int(epoch): bytes.fromhex(key) for epoch, key in keyring["epochs"].items()}
    return Keyring(bytes.fromhex(keyring["repository"]), bytes.fromhex(keyring["id_key"]), epochs)


def _stretched(passphrase: str, salt: bytes, cost: Argon2Cost) -> bytes:
    return argon2.low_level.hash_secret_raw(
        unicodedata.normalize("NFC", passphrase).encode(),
        salt,
        time_cost=cost.time,
        memory_cost=cost.memory_kib,
        parallelism=cost.lanes,
        hash_len=KEY_BYTES,
        type=argon2.low_level.Type.ID,
    )
