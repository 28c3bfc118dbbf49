"""What kind of mount a directory lies on, as the kernel tells (proc(5), `/proc/pid/mountinfo`).

Owns: the rule that a network file system serves as a repository only without attribute caching: with it, a listing may
miss what another host has just put, and a name that is taken may look free.
"""

from collections.abc import Iterable
from pathlib import Path

from offhost.errors import UnsafeMount

_NETWORK = ("nfs", "nfs4", "cifs", "smb3")
_UNCACHED = ("noac", "actimeo=0")


def check_uncached(directory: Path, mountinfo: Iterable[str] | None = None) -> None:
    """Raise UnsafeMount when writers on other hosts could not be seen from here in time."""
    lines = list(mountinfo) if mountinfo is not None else _mountinfo()
    mounts = [mount for line in lines if (mount := _parsed(line)) and directory.is_relative_to(mount[0])]
    if not mounts:
        return
    place, kind, options = max(mounts, key=lambda mount: len(mount[0].parts))  # of several on one place, the last
    if kind in _NETWORK and not set(_UNCACHED) & options and not _explicitly_zero(options):
        raise UnsafeMount(
            f"{directory}: lies on {place}, a {kind} mount that caches attributes: writers on several hosts could harm "
            "each other",
            hint=f"mount it with the option noac, or actimeo=0: mount -o remount,noac {place}",
        )


def _explicitly_zero(options: set[str]) -> bool:
    """How the kernel shows actimeo=0."""
    return {"acregmin=0", "acregmax=0", "acdirmin=0", "acdirmax=0"} <= options


def _mountinfo() -> list[str]:
    try:
        return Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return []


def _parsed(line: str) -> tuple[Path, str, set[str]] | None:
    """A mount's place, its file system's type, and its options of both kinds."""
    before, separator, after = line.partition(" - ")
    fields, rest = before.split(" "), after.split(" ")
    if not separator or len(fields) < 6 or len(rest) < 3:
        return None
    place = fields[4]
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        place = place.replace(code, character)
    return Path(place), rest[0], {*fields[5].split(","), *rest[2].split(",")}
