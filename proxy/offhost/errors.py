"""Every error an operator can meet: one declaration per kind.

Owns: the tree of errors, their stable codes, exit codes, and whether trying again can help.
Does not own: the translation of foreign errors, which happens at the home of each client
(`raise ... from`), nor the retrying itself (`aio.retrying`).
"""

from collections.abc import Sequence
from typing import ClassVar


class OffhostError(Exception):
    """An error with a message that says what and where, and a hint that says what to do.

    `code` is stable and appears in JSON, REST and logs; `exit_code` is what the command line ends with;
    `retry` says whether the same call may succeed when repeated.
    """

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1
    retry: ClassVar[bool] = False

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(OffhostError):
    """What was asked for cannot be done as asked."""

    code = "usage"
    exit_code = 2


class ConfigError(UsageError):
    """A configuration file is wrong; `line` and `column` count from 1, None where there is no place."""

    code = "config"

    def __init__(
        self,
        message: str,
        *,
        file: str | None = None,
        line: int | None = None,
        column: int | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.file, self.line, self.column = file, line, column

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.line, self.column) if part is not None)
        return f"{place}: {self.message}" if place else self.message


class ConfigErrors(ConfigError):
    """Every mistake found in the configuration at once, in the order of the files; never empty."""

    def __init__(self, mistakes: Sequence[ConfigError]) -> None:
        count = len(mistakes)
        super().__init__(f"the configuration has {count} mistake{'s' if count > 1 else ''}")
        self.mistakes = tuple(mistakes)

    def __str__(self) -> str:
        return "\n".join(str(mistake) for mistake in self.mistakes)


class NotFound(UsageError):
    """A name or an id that nothing, or more than one thing, answers to."""

    code = "not_found"


class Conflict(UsageError):
    """What was asked for collides with what is there or under way."""

    code = "conflict"


class StateError(OffhostError):
    """The state directory, or the catalog in it, cannot be read or written."""

    code = "state"


class Stopped(OffhostError):
    """Work was told to stop before its end: a cancelled run."""

    code = "stopped"
    exit_code = 130


class VSphereError(OffhostError):
    """vCenter or a host refused or failed a call."""

    code = "vsphere"


class ConnectFailed(VSphereError):
    """No connection, or one that must not be trusted (certificate, thumbprint)."""

    code = "vsphere_connect"


class LoginFailed(VSphereError):
    """The endpoint does not accept user and password. Never retried: accounts are locked by repetition."""

    code = "vsphere_login"


class SessionLost(VSphereError):
    """The session died and could not be renewed within the call."""

    code = "session_lost"
    retry = True


class PermissionDenied(VSphereError):
    """The account lacks a privilege, which the message names."""

    code = "permission_denied"


class VmGone(VSphereError):
    """The VM, or the snapshot being read, does not exist any more."""

    code = "vm_gone"


class SnapshotFailed(VSphereError):
    """A snapshot could not be created or removed."""

    code = "snapshot_failed"
    retry = True


class QuiesceFailed(SnapshotFailed):
    """A snapshot could not be created because the guest was not quiesced."""

    code = "quiesce_failed"
    retry = False


class ChangeTrackingInvalid(VSphereError):
    """vSphere cannot say what changed since the base: the disk must be read in full."""

    code = "change_tracking_invalid"


class UnreadableDisks(VSphereError):
    """Disks that no snapshot holds still, or that would be read as ciphertext; the message names each."""

    code = "unreadable_disks"


class ChangeTrackingBroken(ChangeTrackingInvalid):
    """VSphere's journal of changes should know what changed since the base, and does not."""

    code = "change_tracking_broken"


class Busy(VSphereError):
    """The endpoint cannot do it just now: something else is under way, or a host does not answer."""

    code = "vsphere_busy"
    retry = True


class LowSpace(VSphereError):
    """A datastore has less free space than a snapshot may be held with."""

    code = "datastore_low_space"


class VmStaysOff(VSphereError):
    """A VM that was shut down for its backup could not be started again."""

    code = "vm_stays_off"


class TransportError(OffhostError):
    """A disk could not be read or written the way that was tried."""

    code = "transport"


class TransportUnavailable(TransportError):
    """This transport cannot serve this disk; the message is the reason. The next one may."""

    code = "transport_unavailable"


class ReadFailed(TransportError):
    """A read that was begun broke off."""

    code = "read_failed"
    retry = True


class GateClosed(TransportError):
    """The snapshot or its files are not what they were when reading began: the bytes may be torn."""

    code = "gate_closed"


class DiskImageError(OffhostError):
    """A disk image or descriptor is not readable."""

    code = "disk_image"


class UnsupportedImage(DiskImageError):
    """A disk image of a kind offhost does not read."""

    code = "disk_image_unsupported"


class DamagedImage(DiskImageError):
    """A disk image that is cut short, contradicts itself, or names what it must not."""

    code = "disk_image_damaged"


class RepositoryError(OffhostError):
    """A repository cannot be opened or used."""

    code = "repository"


class NoRepository(RepositoryError):
    """There is no repository where one was named."""

    code = "no_repository"


class UnsafeMount(RepositoryError):
    """The repository lies where several writers could not be kept apart."""

    code = "unsafe_mount"


class WrongKey(RepositoryError):
    """No key wrapper opens with the passphrase or key given."""

    code = "wrong_key"


class FormatTooNew(RepositoryError):
    """The repository needs a newer offhost."""

    code = "format_too_new"


class SessionFenced(RepositoryError):
    """A collector or another process ended this session; nothing was committed."""

    code = "session_fenced"
    retry = True


class RestoreFailed(OffhostError):
    """What was to be restored could not be written, or reads back differently."""

    code = "restore_failed"


class IntegrityError(RepositoryError):
    """Bytes in the repository are not what was written. Never retried, never swallowed."""

    code = "integrity"

    usual_hint: ClassVar[str] = "`offhost repo verify --data` says what is harmed, and what to do about it"

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint or self.usual_hint)


class ChunkCorrupt(IntegrityError):
    """A chunk fails its seal or is not the content its id names."""

    code = "chunk_corrupt"


class PackCorrupt(IntegrityError):
    """A pack, or another object, is missing, cut short, or fails its seal."""

    code = "pack_corrupt"


class CollectionBlocked(IntegrityError):
    """A collector cannot know what is needed, and so deletes nothing."""

    code = "collection_blocked"


class IndexInconsistent(IntegrityError):
    """An index run contradicts the packs; the packs' own directories decide."""

    code = "index_inconsistent"


class BackendError(OffhostError):
    """Where the objects lie, a call failed."""

    code = "backend"


class ObjectNotFound(BackendError):
    """There is no object of that name."""

    code = "object_not_found"


class ObjectExists(BackendError):
    """An object of that name is there already, and objects are created once."""

    code = "object_exists"


class Unavailable(BackendError):
    """The store does not answer, or failed in a way that may pass."""

    code = "backend_unavailable"
    retry = True


class AccessDenied(BackendError):
    """The store refuses access."""

    code = "access_denied"


class NoSpace(BackendError):
    """The store is full."""

    code = "no_space"
