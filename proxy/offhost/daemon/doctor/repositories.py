"""A repository: there, opened by its secret, with room."""

import os

from offhost.aio import in_thread
from offhost.config import Configuration
from offhost.daemon.doctor.findings import Finding, counted, failed
from offhost.daemon.engine import Engine
from offhost.errors import OffhostError
from offhost.printable import size

_LITTLE = 0.05


async def repository_finding(configuration: Configuration, engine: Engine, name: str) -> Finding:
    """Open it, and see how much room its file system has."""
    subject, path = f"repository {name}", configuration.repositories[name].path
    try:
        repository = (await engine.resources.destination(name)).repository
        points, damaged = await in_thread(repository.points.read)
        room = await in_thread(os.statvfs, path)
    except OffhostError as error:
        return failed(subject, "opens", error)
    except OSError as error:
        return Finding(subject, "opens", "error", f"{path}: {error.strerror}", "see whether its file system is mounted")
    free, total = room.f_bavail * room.f_frsize, room.f_blocks * room.f_frsize
    said = f"{path} opens, {counted(len(points), 'restore point')}, {size(free)} free of {size(total)}"
    if damaged:
        hint = "offhost repo verify says more"
        return Finding(subject, "opens", "error", f"{said}; {len(damaged)} restore points cannot be read", hint)
    if free < total * _LITTLE:
        return Finding(
            subject, "room", "warning", said, "make room: `offhost retention explain`, then `offhost repo gc`"
        )
    return Finding(subject, "opens", "ok", said)
