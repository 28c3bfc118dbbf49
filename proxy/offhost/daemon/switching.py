"""VMs that jobs shut down: the backup of one, and what dead runs promised.

Owns: where the engine's values and the durable promises meet. Does not own: switching (backup.powered_off), the
promises' files (state).
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

from offhost.aio import in_thread
from offhost.backup.directory import FolderBackup, VmFolder
from offhost.backup.powered_off import Away, ShuttingDown, keep, still_off, switched_off, vm_of
from offhost.backup.report import Problem, VmReport
from offhost.clock import Clock, rfc3339
from offhost.errors import Conflict, OffhostError, VmStaysOff
from offhost.ids import RunId
from offhost.jobs.spec import SwitchingOff
from offhost.state import PowerPromise, State
from offhost.vsphere.inventory import vms
from offhost.vsphere.session import VSphere
from offhost.vsphere.values import Vm

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchedOffBackup:
    """One run's way of backing folders up whose VMs are shut down meanwhile."""

    vsphere: VSphere
    vcenter: str
    state: State
    clock: Clock
    mounts: Mapping[str, Path]
    terms: SwitchingOff
    run_id: RunId
    backup: FolderBackup

    async def run(self, folder: VmFolder) -> VmReport:
        """Back up a folder. Raises: as `vm_of`, `switched_off` and `FolderBackup.run` do; Conflict."""
        vm = await vm_of(self.vsphere, folder, self.mounts)
        timeout_s = self.terms.timeout_minutes * 60.0
        until = self.clock.now() + timedelta(seconds=2 * timeout_s)
        promise = self.state.power_promise(self.vcenter, vm.id, vm.name, self.run_id, until=until)
        started, made = rfc3339(self.clock.now()), list[VmReport]()
        away = Away(vm)
        try:
            with self.state.claim_vm(vm.id, self.run_id):
                async with switched_off(self.vsphere, away, ShuttingDown(timeout_s, self.terms.force), promise):
                    made.append(await self.backup.run(folder, gate=self._gate(vm)))
        except VmStaysOff as error:
            if not made:
                raise
            return replace(made[0], problem=Problem(error.code, str(error), error.hint))
        except asyncio.CancelledError:
            if away.problem:
                self.backup.on_cancelled(self._cancelled(folder, started, away.problem))
            raise
        return replace(made[0], warnings=(*away.warnings, *made[0].warnings))

    def _gate(self, vm: Vm) -> Callable[[], None]:
        loop = asyncio.get_running_loop()
        return lambda: asyncio.run_coroutine_threadsafe(still_off(self.vsphere, vm), loop).result()

    def _cancelled(self, folder: VmFolder, started: str, problem: str) -> VmReport:
        return VmReport(
            vm=folder.name,
            vm_id=folder.id,
            point=None,
            consistency=None,
            disks=(),
            warnings=(),
            problem=Problem(VmStaysOff.code, f"the run was cancelled; {problem}", None),
            started=started,
            ended=rfc3339(self.clock.now()),
        )


async def keep_promises(state: State, clock: Clock, session: Callable[[str], Awaitable[VSphere]]) -> list[str]:
    """Start the VMs that dead runs shut down and did not start again; says what became of each, a line each.

    All at once: one whose guest may still be shutting down is waited for, and the others are off meanwhile.
    """
    broken, damaged = await in_thread(state.broken_promises)
    for error in damaged:
        _log.error("%s", error)
    lines = await asyncio.gather(*(_kept(promise, state, clock, session) for promise in broken))
    return [*map(str, damaged), *lines]


async def _kept(promise: PowerPromise, state: State, clock: Clock, session: Callable[[str], Awaitable[VSphere]]) -> str:
    said = f"{promise.vcenter}: {promise.vm}: the dead run {promise.run} had it shut down for its backup: "
    try:
        with state.claim_vm(promise.vm_id, None):
            outcome = await _started(promise, await session(promise.vcenter), clock)
    except Conflict as error:
        return f"{said}left to that: {error}"
    except Exception as error:  # noqa: BLE001 - whatever it is, a VM that stays off must be told with its name
        _log.error("%sit could NOT be started again: %s", said, error, exc_info=not isinstance(error, OffhostError))
        return f"{said}it could not be started again: {error}"
    _log.warning("%s%s", said, outcome)
    return said + outcome


async def _started(promise: PowerPromise, vsphere: VSphere, clock: Clock) -> str:
    found = [vm for vm in await vms(vsphere) if vm.id == promise.vm_id]
    if not found:
        return f"vCenter does not show it any more; delete {promise.file} if that is right"
    may_go_off_s = max((promise.until - clock.now()).total_seconds(), 0.0)
    was_off = await keep(vsphere, found[0], promise, may_go_off_s=may_go_off_s)
    return "it was off, and was started again" if was_off else "it runs"
