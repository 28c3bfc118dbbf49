"""The small objects of a repository, each opened: configuration, key wrappers, sessions, verdicts, marks.

Owns: what to do about one that does not open. None of them is needed to read a restore point, but for the configuration
and one key wrapper. Does not own: points (points), index runs (agreement), packs (checking).
"""

from collections.abc import Iterator

from offhost.backend.contract import Backend
from offhost.errors import BackendError, IntegrityError, ObjectNotFound
from offhost.repository.keys.keyring import Keyring
from offhost.repository.objects.graves import Verdict
from offhost.repository.objects.sealed import ObjectType, get_json
from offhost.repository.opening import read_wrapper
from offhost.repository.verification.damage import Damage

_HINTS = {
    ObjectType.CONFIG: "another generation is in force, so nothing is lost; move this object away",
    ObjectType.SESSION: "collecting waits for it; when no backup is running, move it away",
    ObjectType.HEARTBEAT: "collecting waits for it; when no backup is running, move it away",
    ObjectType.CONDEMNED: "restores work, backups and collecting wait: put it back from a copy of the repository, or, "
    "when no backup, copy or collection is running anywhere, move it away",
    ObjectType.SWEEP: "restores work, backups and collecting wait: put it back from a copy of the repository, or, when "
    "no backup, copy or collection is running anywhere, move it away and run `offhost repo gc`, which decides anew",
    ObjectType.MARK: "collecting waits for it, and backups too where it tells of damage: move it away, then forget, "
    "pin or verify again what it may have named",
}


def inspect(backend: Backend, keyring: Keyring) -> Iterator[Damage]:
    """Open them all; what does not open."""
    in_force = max((item.name for item in backend.list("config/")), default="")
    for folder, kind in (
        ("config", ObjectType.CONFIG),
        ("condemned", ObjectType.CONDEMNED),
        ("sweeps", ObjectType.SWEEP),
        ("sessions", ObjectType.SESSION),
        ("marks", ObjectType.MARK),
    ):
        for item in backend.list(f"{folder}/"):
            of = ObjectType.HEARTBEAT if folder == "sessions" and _is_heartbeat(item.name) else kind
            hint = (
                "every command needs it: put it back from a copy of the repository" if item.name == in_force else None
            )
            try:
                value = get_json(backend, keyring, of, item.name)
                if of in (ObjectType.CONDEMNED, ObjectType.SWEEP):
                    Verdict.from_json(item.name, value)
            except ObjectNotFound:
                continue  # deleted since it was listed
            except (IntegrityError, BackendError) as error:
                yield Damage(str(error), hint=hint or _HINTS[of])
    yield from _wrappers(backend, keyring)


def _is_heartbeat(name: str) -> bool:
    return name.rpartition("/")[2].partition(".")[2].isdecimal()


def _wrappers(backend: Backend, keyring: Keyring) -> Iterator[Damage]:
    hint = "whoever opens the repository by it is shut out: remove it, and add that key or passphrase again"
    for item in backend.list("keys/"):
        try:
            genuine = read_wrapper(backend, item.name.rpartition("/")[2]).genuine(keyring)
        except ObjectNotFound:
            continue
        except (IntegrityError, BackendError) as error:
            yield Damage(str(error), hint=hint)
        else:
            if genuine is False:
                yield Damage(f"{item.name}: put there or changed by somebody who does not have the keys", hint=hint)
