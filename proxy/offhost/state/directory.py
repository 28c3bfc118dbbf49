"""The state directory: `installation`, `daemon.lock`, `runs/`, `jobs/`, `vms/`, `power/`, `audit.log`,
`catalog.sqlite`.

Owns: its layout, its modes (0700, 0600), the installation's identity. Does not own: the catalog's content.

One directory belongs to one installation on one machine, or on several that share it over a file system with
working locks. A copy that is run elsewhere would take the original's runs for dead and remove their snapshots; those
runs then fail at their last check instead of storing torn bytes.
"""

import errno
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from offhost.durable import flush_directory
from offhost.errors import Conflict, StateError
from offhost.ids import InstallationId, RunId, VmId, random_id
from offhost.state.audit import AuditLog
from offhost.state.claims import Claim, claim, is_held, read_note
from offhost.state.promises import PowerPromise, read_promise


@dataclass(frozen=True, slots=True)
class State:
    """An open state directory. Thread-safe; calls touch a few small local files and do not block on other processes."""

    path: Path
    installation: InstallationId

    @classmethod
    def open(cls, path: Path) -> "State":
        """Open the directory, made and given an identity when it is new.

        Raises: StateError.
        """
        with _translated(path):
            for directory in (path, path / "runs", path / "jobs", path / "vms", path / "power"):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            return cls(path, _installation(path))

    @property
    def catalog(self) -> Path:
        """Where the catalog's database lies."""
        return self.path / "catalog.sqlite"

    @property
    def audit(self) -> AuditLog:
        """What was changed in vSphere."""
        return AuditLog(self.path / "audit.log")

    def claim_daemon(self) -> Claim:
        """Be the one daemon of this directory.

        Raises: Conflict when another process is, StateError.
        """
        with _translated(self.path):
            held = claim(self._daemon_lock, "")
        if held is None:
            raise Conflict(
                f"a daemon is already running with the state directory {self.path}",
                hint="stop it first (systemctl stop offhost), or give this one a state directory of its own",
            )
        return held

    def daemon_address(self) -> str | None:
        """What the running daemon noted on its claim: where it listens; None when none runs, or none listens yet."""
        with _translated(self.path):
            return read_note(self._daemon_lock) or None if is_held(self._daemon_lock) else None

    def claim_run(self, run_id: RunId) -> Claim:
        """Be alive as this run: taken before its first snapshot, held until its last is gone.

        Raises: Conflict when the id is in use, StateError.
        """
        with _translated(self.path):
            held = claim(self._run_lock(run_id), "")
        if held is None:
            raise Conflict(f"run {run_id} is already being executed")
        return held

    def is_dead(self, run_id: RunId) -> bool:
        """Whether no process can be executing this run any more.

        Certain for the runs of this installation, which hold a claim as long as they live and whose ids are never
        used again: a claim nobody holds, or none at all, means that the run is over. Nothing follows from it for
        the run of another installation.
        """
        with _translated(self.path):
            return not is_held(self._run_lock(run_id))

    def forget_run(self, run_id: RunId) -> None:
        """Remove what a dead run left here."""
        with _translated(self.path):
            if not is_held(self._run_lock(run_id)):
                self._run_lock(run_id).unlink(missing_ok=True)

    def claim_job(self, name: str, holder: RunId) -> Claim:
        """Be the one run, of all processes, of this job.

        Raises: Conflict naming the run that is, StateError.
        """
        return self._claim(self.path / "jobs" / _file_name(name), f"run {holder}", f"job {name} is being executed")

    def claim_vm(self, vm_id: VmId, holder: RunId | None) -> Claim:
        """Be the one run, of all jobs and processes, that works on this VM; or, without a run, its clean-up.

        Raises: Conflict naming the run that does, StateError.
        """
        by = f"run {holder}" if holder else "the removal of what a dead run left"
        return self._claim(self.path / "vms" / _file_name(vm_id), by, "this VM is being worked on")

    def power_promise(self, vcenter: str, vm_id: VmId, vm: str, run: RunId, *, until: datetime) -> PowerPromise:
        """A run's promise to start a VM again, not given yet."""
        file = self.path / "power" / f"{hashlib.sha256(vm_id.encode()).hexdigest()}.json"
        return PowerPromise(file, vcenter, vm_id, vm, run, until)

    def broken_promises(self) -> tuple[list[PowerPromise], list[StateError]]:
        """The promises of runs that are dead, and what is wrong with those that cannot be read: they bar no other."""
        broken: list[PowerPromise] = []
        damaged: list[StateError] = []
        for file in sorted((self.path / "power").glob("*.json")):
            try:
                promise = read_promise(file)
                broken += [promise] if self.is_dead(promise.run) else []
            except FileNotFoundError:
                continue  # kept this moment
            except StateError as error:
                damaged.append(error)
        return broken, damaged

    def _claim(self, path: Path, holder: str, taken: str) -> Claim:
        with _translated(self.path):
            held = claim(path, holder)
            other = "" if held else read_note(path)
        if held is None:
            raise Conflict(f"{taken} by {other}" if other else taken, hint="wait for that to end")
        return held

    @property
    def _daemon_lock(self) -> Path:
        return self.path / "daemon.lock"

    def _run_lock(self, run_id: RunId) -> Path:
        # Run ids come from descriptions of snapshots, too, where anyone may have written anything.
        if not re.fullmatch(r"[0-9a-f]{32}", run_id):
            raise StateError(f"{run_id!r} is not the id of a run")
        return self.path / "runs" / f"{run_id}.lock"


def _file_name(claimed: str) -> str:
    """A file's name for what may be called anything: `../x`, or longer than a file's name may be."""
    return f"{hashlib.sha256(claimed.encode()).hexdigest()}.lock"


def _installation(path: Path) -> InstallationId:
    """The id of this installation: made once, and durable before anything bears it."""
    file = path / "installation"
    if not file.exists():
        _create_durably(file, random_id())
    text = file.read_text().strip()
    if not re.fullmatch(r"[0-9a-f]{32}", text):
        raise StateError(
            f"{file} is damaged: it does not hold an installation's id",
            hint="restore the file; without it, snapshots that a dead run left cannot be told from foreign ones",
        )
    return InstallationId(text)


def _create_durably(file: Path, text: str) -> None:
    """Create a file whole or not at all; another process may do so at the same moment, and the first one wins."""
    temporary = file.with_name(f".{file.name}.{random_id()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            os.write(descriptor, f"{text}\n".encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        try:
            os.link(temporary, file)
        except FileExistsError:
            return
        flush_directory(file.parent)
    finally:
        temporary.unlink()


_HINTS = {
    errno.EACCES: "run offhost as the user that owns it",
    errno.EPERM: "run offhost as the user that owns it",
    errno.ENOSPC: "make room on its file system",
    errno.EROFS: "its file system is mounted read-only",
}


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = error.filename or path
        raise StateError(
            f"state directory {path}: {where}: {error.strerror}",
            hint=_HINTS.get(error.errno or 0, "`state` in proxy.yaml says where it lies"),
        ) from error
