"""A disk of a restore point as a raw file, which appears under its name only when it is whole and durable.

Does not own: the copy (transport.copying), checking what is read, which the repository does with every byte.
"""

import errno
import os
import secrets
from contextlib import suppress
from pathlib import Path

from offhost.blockio import FileWriteAt, ReadAt
from offhost.chunking.workers import SpanWorkers
from offhost.durable import flush_directory
from offhost.errors import Conflict, NoSpace, RestoreFailed, UsageError
from offhost.transport.copying import Progress, copy_out


def restore_disk(source: ReadAt, to: Path, workers: SpanWorkers, progress: Progress) -> None:
    """Write a disk to a new sparse raw file.

    Raises: Conflict when the file exists; UsageError, NoSpace, RestoreFailed; IntegrityError; what `progress` raises.
    Nothing is left behind then.
    """
    if to.exists() or to.is_symlink():
        raise Conflict(f"{to}: exists already", hint="choose another name, or move it away: nothing is overwritten")
    if not to.parent.is_dir():
        raise UsageError(f"{to.parent}: no such directory")
    partial = to.with_name(f".{to.name}.{secrets.token_hex(4)}.partial")
    try:
        target = FileWriteAt.create(partial, source.size_bytes)
        try:
            copy_out(source, target, workers, progress)
        finally:
            target.close()
        _name(partial, to)
        flush_directory(to.parent)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(f"{to}: {error.strerror}", hint="free some space, or restore elsewhere") from error
        raise RestoreFailed(f"{to}: {error.strerror}") from error
    finally:
        with suppress(OSError):
            partial.unlink()


def _name(partial: Path, to: Path) -> None:
    """Give the file its name, which nobody has taken meanwhile: a link, unlike a rename, replaces nothing."""
    try:
        os.link(partial, to)
    except FileExistsError:
        raise Conflict(f"{to}: exists since this restore began", hint="choose another name") from None
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        partial.rename(to)  # a file system without links
