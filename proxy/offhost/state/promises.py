"""Promises to start a VM again that was shut down for its backup: kept by the next process, should this one die.

Owns: a small file for each, durable before it is relied on. Does not own: the keeping (backup.powered_off).
"""

import json
import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from offhost.clock import moment, rfc3339
from offhost.durable import flush_directory
from offhost.errors import StateError
from offhost.ids import RunId, VmId, random_id


@dataclass(frozen=True, slots=True)
class PowerPromise:
    """That a VM will be started again, given by a run; `until` is when its guest has shut down at the latest."""

    file: Path
    vcenter: str
    vm_id: VmId
    vm: str
    run: RunId
    until: datetime

    def given(self) -> bool:
        """Whether a promise for this VM stands that another run gave. Raises: StateError."""
        try:
            return read_promise(self.file).run != self.run
        except FileNotFoundError:
            return False

    def give(self) -> None:
        """Write it down, in place of an earlier one. Raises: StateError."""
        temporary = self.file.with_name(f".{self.file.name}.{random_id()}")
        told = {"vcenter": self.vcenter, "vm_id": self.vm_id, "vm": self.vm, "run": self.run}
        try:
            with temporary.open("x") as file:
                json.dump(told | {"until": rfc3339(self.until)}, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(self.file)
            flush_directory(self.file.parent)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise StateError(
                f"{self.file}: {error.strerror}", hint="make room there: without it no VM is shut down for its backup"
            ) from error

    def take_back(self) -> None:
        """It has been kept. Raises: StateError."""
        try:
            self.file.unlink(missing_ok=True)
            flush_directory(self.file.parent)
        except OSError as error:
            raise StateError(f"{self.file}: {error.strerror}") from error


def read_promise(file: Path) -> PowerPromise:
    """A promise that was written down. Raises: FileNotFoundError; StateError when it is not one."""
    try:
        told: dict[str, Any] = json.loads(file.read_text())
        vm_id, run = VmId(str(told["vm_id"])), RunId(str(told["run"]))
        return PowerPromise(file, str(told["vcenter"]), vm_id, str(told["vm"]), run, moment(told["until"]))
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StateError(
            f"{file} is damaged: a VM that was shut down for its backup may be off",
            hint="see in vCenter that the VMs of jobs with consistency: power_off run, then delete the file",
        ) from error
