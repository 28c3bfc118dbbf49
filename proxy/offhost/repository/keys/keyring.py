"""The keyring: the secrets of a repository, and every key that is derived from them.

Owns: FORMAT.md, "The keyring". Does not own: how it is wrapped (wrappers), what the keys seal (sealed, packs).
"""

import secrets
from dataclasses import dataclass, field
from typing import Any

import blake3

from offhost.errors import PackCorrupt
from offhost.ids import VmId

KEY_BYTES = 32
EPOCHS_LIMIT = 64
"""Epochs of one keyring, so that a wrapper stays small."""

_LAST_EPOCH = (1 << 16) - 1


def derived(context: str, *material: bytes) -> bytes:
    """A key of its own for one purpose (BLAKE3 in derive-key mode)."""
    return blake3.blake3(b"".join(material), derive_key_context=context).digest()


@dataclass(slots=True)
class Keyring:
    """All secrets of a repository. Never printed: the secrets are left out of its repr.

    Thread-safe. It only ever learns: a process that has a repository open takes over the epochs that another has
    begun. Whoever seals reads `epoch` once and uses that.
    """

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

    def with_new_epoch(self) -> "Keyring":
        """The same secrets, and a fresh one for the epoch after the last."""
        return Keyring(self.repository_id, self.id_key, self.epochs | {self.epoch + 1: secrets.token_bytes(KEY_BYTES)})

    def learn(self, newer: "Keyring") -> None:
        """Take over what a later keyring of the same repository knows. Raises: PackCorrupt when it is another's."""
        same = (newer.repository_id, newer.id_key) == (self.repository_id, self.id_key)
        if not same or self.epochs.items() - newer.epochs.items():
            raise PackCorrupt("the repository was replaced by another one while it was open")
        self.epochs = newer.epochs

    def sealing_key(self, epoch: int, kind: int, salt: bytes) -> bytes:
        """The key of one pack or object. Raises: PackCorrupt for an epoch that there is no key of."""
        key = self.epochs.get(epoch)
        if key is None:
            raise PackCorrupt(f"an object says that it is sealed with key epoch {epoch}, of which there is no key")
        return derived("offhost 1 sealing key", key, self.repository_id, bytes([kind]), salt)

    def metadata_id_key(self) -> bytes:
        """The key of leaves' and list pages' ids."""
        return derived("offhost 1 metadata id key", self.id_key)

    def vm_folder(self, vm: VmId) -> str:
        """The directory name of a VM's points: who lists the repository learns no name."""
        key = derived("offhost 1 vm name key", self.id_key)
        return blake3.blake3(vm.encode(), key=key).digest(16).hex()

    def to_json(self) -> dict[str, Any]:
        """What a wrapper holds."""
        return {
            "repository": self.repository_id.hex(),
            "id_key": self.id_key.hex(),
            "epochs": {str(epoch): key.hex() for epoch, key in self.epochs.items()},
        }

    @classmethod
    def from_json(cls, value: object) -> "Keyring":
        """What `to_json` gave, hostile until checked. Raises: ValueError."""
        match value:
            case {"repository": str(repository), "id_key": str(id_key), "epochs": dict(epochs)}:
                found = {int(epoch): _exactly(KEY_BYTES, key) for epoch, key in epochs.items()}
                if not 1 <= len(found) == len(epochs) <= EPOCHS_LIMIT or min(found) < 1 or max(found) > _LAST_EPOCH:
                    raise ValueError("a keyring with impossible epochs")
                return cls(_exactly(16, repository), _exactly(KEY_BYTES, id_key), found)
            case _:
                raise ValueError("not a keyring")


def _exactly(size_bytes: int, text: object) -> bytes:
    """So many bytes in hex. Raises: ValueError."""
    if not isinstance(text, str) or len(text) != 2 * size_bytes:
        raise ValueError(f"a key that is not {size_bytes} bytes long")
    return bytes.fromhex(text)
