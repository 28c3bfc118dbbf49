"""A small file that is kept with a restore point, given back as a file: a host's configuration, a VM's .vmx.

Does not own: files inside a VM's disks.
"""

import errno
import os
from pathlib import Path

from offhost.durable import flush_directory
from offhost.errors import Conflict, NoSpace, NotFound, RestoreFailed, UsageError
from offhost.repository.points.manifest import PointFile
from offhost.repository.points.restorepoint import RestorePoint

_MODE = 0o600
"""A host's configuration holds its accounts."""


def chosen(point: RestorePoint, name: str | None) -> PointFile:
    """The file of that name, or the only one. Raises: NotFound, naming those there are."""
    files = point.manifest.files
    if name is None and len(files) == 1:
        return files[0]
    found = next((file for file in files if file.name == name), None)
    if found is None:
        names = ", ".join(file.name for file in files) or "none"
        raise NotFound(f"point {point.manifest.id[:12]}: which file? It keeps {names}", hint="choose one with --file")
    return found


def export(point: RestorePoint, file: PointFile, to: Path) -> None:
    """Write a file of a point to a new one, durable when this returns.

    Raises: Conflict when it exists; UsageError, NoSpace, RestoreFailed; IntegrityError. Nothing is left behind then.
    """
    content = point.file(file)
    try:
        descriptor = os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
    except FileExistsError:
        raise Conflict(f"{to}: exists already", hint="choose another name: nothing is overwritten") from None
    except OSError as error:
        raise UsageError(f"{to}: {error.strerror}") from error
    try:
        with os.fdopen(descriptor, "wb") as target:
            target.write(content)
            target.flush()
            os.fsync(descriptor)
        flush_directory(to.parent)
    except OSError as error:
        to.unlink()
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(f"{to}: {error.strerror}", hint="free some space, or restore elsewhere") from error
        raise RestoreFailed(f"{to}: {error.strerror}") from error
