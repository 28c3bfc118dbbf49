"""A VM that is shut down for its backup, and started again whatever happens.

Owns: that nothing is switched off before the promise to start it again is durable, and that the promise is taken back
only when the VM has been seen running. A promise that outlives its process is kept by the next one (`keep`).
Does not own: where promises lie (whoever hands them in), the copy (directory).
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from offhost.aio import in_thread, shielded
from offhost.backup.directory import VmFolder
from offhost.errors import (
    GateClosed,
    NotFound,
    OffhostError,
    PermissionDenied,
    SessionLost,
    VmGone,
    VmStaysOff,
    VSphereError,
)
from offhost.vsphere.inventory import as_it_is_now, refuse_twins, vms
from offhost.vsphere.power import ask_to_shut_down, switch_off, switch_on, vmx_paths
from offhost.vsphere.session import VSphere
from offhost.vsphere.values import Vm

_log = logging.getLogger(__name__)


class Promise(Protocol):
    """That a VM will be started again, where a process that dies leaves it."""

    def given(self) -> bool:
        """Whether a run before this one gave it and did not keep it: the VM was on then."""
        ...

    def give(self) -> None:
        """Durable when this returns. Raises: StateError."""
        ...

    def take_back(self) -> None:
        """It has been kept. Raises: StateError."""
        ...


@dataclass(frozen=True, slots=True)
class ShuttingDown:
    """How long a guest may take, and whether a VM is switched off whose guest does not go down, or cannot be asked."""

    timeout_s: float
    force: bool
    look_again_s: float = 2.0
    start_attempts: int = 8
    start_wait_s: float = 2.0
    """How long the second attempt to start it waits; each further one twice as long."""


@dataclass(slots=True)
class Away:
    """A VM on its way off and on. `problem` says, once that is over, why it could not be started again."""

    vm: Vm
    problem: str | None = None
    warnings: list[str] = field(default_factory=list)


@asynccontextmanager
async def switched_off(vsphere: VSphere, away: Away, terms: ShuttingDown, promise: Promise) -> AsyncIterator[None]:
    """A VM, off for the scope. One that was off before stays so, unless an earlier run promised otherwise.

    Leaving the scope starts it again, shielded, after failure and cancellation too. Raises: VSphereError when it does
    not go off; VmStaysOff when it could not be started, unless a cancellation is on its way: then `problem` says it.
    """
    power = _Power(vsphere, await as_it_is_now(vsphere, away.vm), terms)
    if power.vm.power == "suspended":
        raise VSphereError(f"{away.vm.name}: is suspended, and so not off", hint="let it run, or switch it off")
    if power.vm.power == "off" and not await in_thread(promise.given):
        yield
        return
    try:
        await shielded(in_thread(promise.give))
        await power.go_off(away.warnings)
        yield
    except OffhostError as error:
        away.problem = await shielded(_started_again(power, promise))
        if away.problem:
            raise VmStaysOff(f"{away.problem}. The backup failed: {error}", hint=_STAYS_OFF_HINT) from error
        raise
    except BaseException:
        away.problem = await shielded(_started_again(power, promise))
        raise
    away.problem = await shielded(_started_again(power, promise))
    if away.problem:
        raise VmStaysOff(away.problem, hint=_STAYS_OFF_HINT)


_STAYS_OFF_HINT = "start it in vCenter; the daemon tries again every ten minutes, and the job's next run does"


async def _started_again(power: "_Power", promise: Promise) -> str | None:
    """Start a VM; why it could not be, in words, logged too. The promise stands then."""
    problem = None
    try:
        if await power.come_back():
            await in_thread(promise.take_back)
        else:
            problem = "its guest was asked to shut down and has not done so yet: it may still go off"
    except Exception as error:  # noqa: BLE001 - whatever it is, a VM that stays off must be told with its name
        problem = f"was shut down for its backup and could NOT be started again: {error}"
    if problem:
        _log.error("%s: %s", power.vm.name, problem)
        return f"{power.vm.name}: {problem}"
    return None


async def keep(vsphere: VSphere, vm: Vm, promise: Promise, *, may_go_off_s: float) -> bool:
    """Keep a dead run's promise; whether the VM was off. Its guest may still be shutting down for so long.

    The caller has claimed it. Raises: why it could not be started; the promise stands then, unless the VM is gone.
    """
    power = _Power(vsphere, vm, ShuttingDown(timeout_s=may_go_off_s, force=False, start_attempts=3))
    power.asked = may_go_off_s > 0
    try:
        await shielded(power.come_back())
    except VmGone:
        await in_thread(promise.take_back)
        raise
    await in_thread(promise.take_back)
    return power.was_off


class _Power:
    """One VM's way off and on again."""

    def __init__(self, vsphere: VSphere, vm: Vm, terms: ShuttingDown) -> None:
        self._vsphere, self.vm, self._terms = vsphere, vm, terms
        self.asked = False
        """It may be going off."""
        self.was_off = False
        """It has been: whoever finds it on then need not wait for its guest."""

    async def go_off(self, warnings: list[str]) -> None:
        """Return when it is off. Raises: VSphereError when it is not within the time."""
        if self.vm.power == "off":
            return
        self.asked = True
        try:
            await ask_to_shut_down(self._vsphere, self.vm)
        except VSphereError as error:
            self.asked = isinstance(error, SessionLost)
            if not self._terms.force:
                raise
            warnings.append(f"its guest could not be asked to shut down: {error}")
        else:
            if await self._is_off_within(self._terms.timeout_s):
                return
            if not self._terms.force:
                raise VSphereError(
                    f"{self.vm.name}: its guest did not shut down within {self._terms.timeout_s:.0f} s",
                    hint="look at the guest, give it longer (shutdown_timeout), or write force_off: true",
                )
            warnings.append(f"its guest did not shut down within {self._terms.timeout_s:.0f} s")
        warnings.append("it was switched off: its file systems are as after a power failure")
        try:
            await switch_off(self._vsphere, self.vm)
        except SessionLost:
            self.asked = True  # nobody knows whether the call came through
            raise
        self.was_off = True

    async def _is_off_within(self, limit_s: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                while True:
                    if await self._look() == "off":
                        return True
                    await asyncio.sleep(self._terms.look_again_s)
        return False

    async def _look(self) -> str:
        self.vm = await as_it_is_now(self._vsphere, self.vm)
        self.was_off = self.was_off or self.vm.power == "off"
        return self.vm.power

    async def come_back(self) -> bool:
        """Return whether it is on for good. False: it is on, but its guest may still be shutting down.

        A guest that was asked, and is not off yet, is waited for once more. Raises: why it is off.
        """
        for attempt in range(self._terms.start_attempts):
            last = attempt + 1 == self._terms.start_attempts
            try:
                return await self._come_back()
            except (PermissionDenied, VmGone):
                raise
            except OffhostError as error:
                if last:
                    raise
                _log.warning("starting %s again: %s", self.vm.name, error)
            await asyncio.sleep(self._terms.start_wait_s * 2**attempt)
        raise AssertionError("at least one attempt is made")

    async def _come_back(self) -> bool:
        if await self._look() != "off":
            if not self.asked or self.was_off:
                return True
            if not await self._is_off_within(self._terms.timeout_s):
                return False
        await switch_on(self._vsphere, self.vm)
        if await self._look() == "off":
            raise VSphereError(f"{self.vm.name}: vCenter shows it off after it was switched on")
        return True


async def still_off(vsphere: VSphere, vm: Vm) -> None:
    """Raises: GateClosed when somebody has started the VM meanwhile."""
    if (await as_it_is_now(vsphere, vm)).power != "off":
        raise GateClosed(
            f"{vm.name}: somebody started it while its disks were read", hint="run the job again at a quieter time"
        )


async def vm_of(vsphere: VSphere, folder: VmFolder, mounts: Mapping[str, Path]) -> Vm:
    """The VM of vCenter whose folder this is: by its UUID, else by where its .vmx lies.

    `mounts`: where datastores are mounted here, by name. A copy of the folder has the UUID, too, and must not have the
    VM shut down that it was copied from: the VM has to run from this folder.
    Raises: NotFound, VSphereError.
    """
    if folder.vmx is None:
        raise NotFound(f"{folder.path}: no .vmx says which VM this is", hint="use consistency: as_is for bare disks")
    places = await vmx_paths(vsphere)
    listed = await vms(vsphere)
    by_uuid = [vm for vm in listed if folder.identified_by == "vc.uuid" and vm.id.endswith(f"/{folder.uuid}")]
    found = by_uuid or [vm for vm in listed if _local(places.get(vm.moref, ""), mounts) == folder.path / folder.vmx]
    if not found:
        raise NotFound(
            f"{folder.path}: vCenter has no VM with its UUID, nor one whose files lie there",
            hint="register the VM, name its datastore under `datastores` in proxy.yaml, or use consistency: as_is",
        )
    vm = found[0]
    refuse_twins(vm)
    place = places.get(vm.moref, "")
    if _local(place, mounts) != folder.path / folder.vmx:
        raise VSphereError(
            f"{folder.path}: {vm.name}, which has the UUID of this folder's VM, lies elsewhere, as far as is known: "
            f"{place}",
            hint="name its datastore under `datastores` in proxy.yaml; a copy of the VM's folder is backed up with "
            "consistency: as_is",
        )
    return vm


def _local(place: str, mounts: Mapping[str, Path]) -> Path | None:
    """The file here that a datastore path means, where that datastore is mounted."""
    datastore, _, file = place.removeprefix("[").partition("] ")
    return (mounts[datastore] / file).resolve() if datastore in mounts and file else None
