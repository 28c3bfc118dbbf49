"""What opens a repository, as proxy.yaml says it."""

from offhost.config import Repository
from offhost.repository.keys.credentials import KeyFile, Passphrase, Unencrypted, Unlock


def unlock_described(described: Repository) -> Unlock:
    """Follow the one reference there is. Raises: ConfigError, UsageError naming it, never what it holds."""
    if described.passphrase:
        return Passphrase(described.passphrase.resolve())
    if described.key_file:
        return KeyFile.parse(described.key_file.resolve(), str(described.key_file))
    return Unencrypted()
