"""What opens a repository: a passphrase, a key file, a recovery key, or the explicit word that none is needed.

Owns: the four ways as values. Does not own: what they open (wrappers), where an operator keeps them (cli, config).
"""

from dataclasses import dataclass, field
from typing import ClassVar, TypeAlias

from offhost.repository.keys.keyfile import KeyFile
from offhost.repository.keys.recoverykey import RecoveryKey

__all__ = ["KeyFile", "Passphrase", "RecoveryKey", "Secret", "Unencrypted", "Unlock"]


@dataclass(frozen=True, slots=True)
class Passphrase:
    """A secret that a person thought of. Never printed by accident: left out of the repr."""

    text: str = field(repr=False)

    kind: ClassVar[str] = "passphrase"
    name: ClassVar[str] = "passphrase"


@dataclass(frozen=True, slots=True)
class Unencrypted:
    """The explicit choice of a repository whose keys lie in the open; it opens nothing else."""

    kind: ClassVar[str] = "plain"
    name: ClassVar[str] = "no key"


Secret: TypeAlias = Passphrase | KeyFile | RecoveryKey
Unlock: TypeAlias = Secret | Unencrypted
