"""A VM is shut down for the backup of its folder, and started again whatever happens."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest

from offhost.backup import powered_off
from offhost.backup.destination import Destination
from offhost.backup.directory import FolderBackup, vm_folder
from offhost.backup.powered_off import Away, ShuttingDown, keep, switched_off
from offhost.backup.report import VmReport
from offhost.clock import SystemClock
from offhost.daemon.switching import SwitchedOffBackup, keep_promises
from offhost.diskimage.image import DiskImage
from offhost.errors import Conflict, GateClosed, OffhostError, SessionLost, VmStaysOff, VSphereError
from offhost.ids import RunId
from offhost.jobs.spec import SwitchingOff
from offhost.state import State
from offhost.vsphere.session import VSphere
from support.sessions import found
from support.vcenter import DiskSpec, Rule, SimulatedVCenter
from support.waiting import until

ON, OFF = "poweredOn", "poweredOff"
BackedUp = Callable[..., Awaitable[VmReport]]


@dataclass
class Noted:
    """A promise, and what became of it; `stands` is what would be found on disk."""

    stands: bool = False
    before: bool = False
    seen: list[str] = field(default_factory=list)

    def given(self) -> bool:
        return self.before

    def give(self) -> None:
        self.stands = True
        self.seen.append("given")

    def take_back(self) -> None:
        self.stands = False
        self.seen.append("kept")


@dataclass
class Running:
    """A running VM, and how it is switched off."""

    vcenter: SimulatedVCenter
    vsphere: VSphere
    moref: str
    promise: Noted = field(default_factory=Noted)

    @property
    def power(self) -> str:
        return self.vcenter.power_state(self.moref)

    async def away(
        self, *, timeout_s: float = 5.0, force: bool = False, body: Callable[[], None] | None = None
    ) -> Away:
        away = Away(await found(self.vsphere, self.moref))
        terms = ShuttingDown(timeout_s, force, look_again_s=0.02, start_attempts=4, start_wait_s=0.02)
        async with switched_off(self.vsphere, away, terms, self.promise):
            assert self.power == OFF
            if body:
                body()
        return away


@pytest.fixture
def web(vcenter: SimulatedVCenter, vsphere: VSphere) -> Running:
    return Running(
        vcenter, vsphere, vcenter.create_vm("web", [DiskSpec(1 << 20, b"x" * (1 << 20))], tools_running=True)
    )


async def test_it_is_off_meanwhile_and_on_again_after(web: Running) -> None:
    await web.away(body=lambda: web.promise.seen.append("read"))
    assert (web.power, web.promise.seen, web.promise.stands) == (ON, ["given", "read", "kept"], False)


async def test_the_promise_is_durable_before_the_guest_is_asked(web: Running) -> None:
    web.vcenter.rules([Rule("ShutdownGuest", mode="drop")])
    with pytest.raises(OffhostError):
        await web.away(timeout_s=0.2)
    assert web.promise.seen[0] == "given"


async def test_a_promise_that_cannot_be_given_leaves_the_vm_on(web: Running) -> None:
    def fails() -> None:
        raise VSphereError("no room")

    web.promise.give = fails  # type: ignore[method-assign]  # as on a full disk
    with pytest.raises(VSphereError, match="no room"):
        await web.away()
    assert web.power == ON
    assert "ShutdownGuest" not in web.vcenter.calls().methods


async def test_one_that_was_off_stays_off(web: Running) -> None:
    web.vcenter.power(web.moref, on=False)
    await web.away()
    assert (web.power, web.promise.seen) == (OFF, [])


async def test_one_that_a_dead_run_left_off_is_started_after_the_backup(web: Running) -> None:
    web.vcenter.power(web.moref, on=False)
    web.promise.before = True
    await web.away()
    assert web.power == ON


async def test_it_is_started_again_after_a_failure(web: Running) -> None:
    def fails() -> None:
        raise VSphereError("the backup failed")

    with pytest.raises(VSphereError, match="the backup failed"):
        await web.away(body=fails)
    assert (web.power, web.promise.stands) == (ON, False)


async def test_it_is_started_again_after_a_fault_of_our_own(web: Running) -> None:
    with pytest.raises(ZeroDivisionError):
        await web.away(body=lambda: print(1 // 0))
    assert web.power == ON


async def test_it_is_started_again_after_a_cancellation_and_a_second_one(web: Running) -> None:
    read = asyncio.Event()

    async def backup() -> None:
        away = Away(await found(web.vsphere, web.moref))
        async with switched_off(web.vsphere, away, ShuttingDown(5.0, False, look_again_s=0.02), web.promise):
            read.set()
            await asyncio.Event().wait()

    web.vcenter.rules([Rule("PowerOnVM_Task", mode="task", delay_ms=300)])
    task = asyncio.create_task(backup())
    await read.wait()
    task.cancel()
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (web.power, web.promise.stands) == (ON, False)


async def test_cancelled_while_the_guest_shuts_down_it_is_waited_for_and_started(web: Running) -> None:
    web.vcenter.set_guest_shutdown(web.moref, takes_s=1.0)
    task = asyncio.create_task(web.away())
    await asyncio.sleep(0.3)
    assert "ShutdownGuest" in web.vcenter.calls().methods
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (web.power, web.promise.stands) == (ON, False)
    await asyncio.sleep(1.1)
    assert web.power == ON


@pytest.mark.parametrize("trouble", ["session", "connection", "busy"])
async def test_it_is_started_again_over_any_passing_trouble(web: Running, trouble: str) -> None:
    def happens() -> None:
        if trouble == "session":
            web.vcenter.drop_sessions()
        elif trouble == "connection":
            web.vcenter.rules([Rule("PowerOnVM_Task", mode="drop", count=2)])
        else:
            web.vcenter.rules([Rule("PowerOnVM_Task", fault="TaskInProgress", count=2)])

    await web.away(body=happens)
    assert (web.power, web.promise.stands) == (ON, False)


async def test_one_that_cannot_be_started_is_an_error_and_the_promise_stands(web: Running) -> None:
    refused = [Rule("PowerOnVM_Task", fault="InsufficientResourcesFault")]
    with pytest.raises(VmStaysOff, match="could NOT be started again"):
        await web.away(body=lambda: web.vcenter.rules(refused))
    assert (web.power, web.promise.stands) == (OFF, True)


async def test_a_guest_that_does_not_shut_down_fails_the_backup_and_is_left_running(web: Running) -> None:
    web.vcenter.set_guest_shutdown(web.moref, takes_s=None)
    with pytest.raises(VSphereError, match="did not shut down within"):
        await web.away(timeout_s=0.3)
    assert web.power == ON
    assert web.promise.stands, "it may still go off"


async def test_a_guest_that_is_late_is_started_again(web: Running) -> None:
    web.vcenter.set_guest_shutdown(web.moref, takes_s=0.6)
    with pytest.raises(VSphereError, match="did not shut down within"):
        await web.away(timeout_s=0.4)
    assert (web.power, web.promise.stands) == (ON, False)


async def test_only_a_job_that_says_so_switches_a_guest_off_that_does_not_shut_down(web: Running) -> None:
    web.vcenter.set_guest_shutdown(web.moref, takes_s=None)
    away = await web.away(timeout_s=0.3, force=True)
    assert "switched off" in away.warnings[-1]
    assert web.power == ON


async def test_without_tools_nobody_can_be_asked(web: Running) -> None:
    web.vcenter.set_tools(web.moref, running=False)
    with pytest.raises(VSphereError, match="VMware Tools is not running"):
        await web.away()
    assert (web.power, web.promise.stands) == (ON, False)
    await web.away(force=True)
    assert web.power == ON


async def test_one_that_goes_off_after_the_answer_was_lost_is_started_again(
    web: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows whether the call came through, and vCenter shows the VM running for a little longer."""

    went_off = asyncio.Event()

    def go_off() -> None:
        web.vcenter.power(web.moref, on=False)
        went_off.set()

    async def lost(*_: object) -> None:
        asyncio.get_running_loop().call_later(0.3, go_off)
        raise SessionLost("the connection broke")

    monkeypatch.setattr(powered_off, "switch_off", lost)
    web.vcenter.set_tools(web.moref, running=False)
    with pytest.raises(SessionLost):
        await web.away(force=True)
    await went_off.wait()
    assert (web.power, web.promise.stands) == (ON, False)


async def test_a_dead_runs_promise_is_kept(web: Running) -> None:
    web.vcenter.power(web.moref, on=False)
    web.promise.stands = True
    assert await keep(web.vsphere, await found(web.vsphere, web.moref), web.promise, may_go_off_s=0)
    assert (web.power, web.promise.stands) == (ON, False)


async def test_a_dead_run_whose_guest_is_still_shutting_down_is_waited_for(web: Running) -> None:
    web.promise.stands = True
    vm = await found(web.vsphere, web.moref)
    keeping = asyncio.create_task(keep(web.vsphere, vm, web.promise, may_go_off_s=10))
    await asyncio.sleep(0.2)
    web.vcenter.power(web.moref, on=False)
    assert await keeping
    assert (web.power, web.promise.stands) == (ON, False)


async def test_no_promise_waits_for_the_vm_of_another_or_bars_its_way(web: Running, tmp_path: Path) -> None:
    """At the start after a crash: one guest may still be shutting down, one VM is off, one promise is damaged."""
    off = web.vcenter.create_vm("off", [DiskSpec(1 << 20)])
    web.vcenter.power(off, on=False)
    state, clock = State.open(tmp_path / "state"), SystemClock()
    for moref in (web.moref, off):
        vm = await found(web.vsphere, moref)
        until_then = clock.now() + timedelta(seconds=30)
        state.power_promise("main", vm.id, vm.name, RunId("1" * 32), until=until_then).give()
    (state.path / "power" / "0.json").write_text("damaged")

    async def session(_: str) -> VSphere:
        return web.vsphere

    keeping = asyncio.create_task(keep_promises(state, clock, session))
    await until(lambda: web.vcenter.power_state(off) == ON)
    assert not keeping.done()
    web.vcenter.power(web.moref, on=False)
    lines = await keeping
    assert [web.power, len(lines)] == [ON, 3]
    assert "0.json is damaged" in lines[0]


@pytest.fixture
def backed_up(web: Running, destination: Destination, tmp_path: Path) -> BackedUp:
    """Backs the VM's folder up with the VM shut down; `meanwhile` happens when the first bytes were read."""

    async def run(meanwhile: Callable[[], object] | None = None, hung_after_s: float = 60.0) -> VmReport:
        waiting = [meanwhile] if meanwhile else []

        def progress(_disk: str, done: int, _total: int) -> None:
            if done and waiting:
                waiting.pop()()

        folder = FolderBackup(
            destination=destination,
            clock=SystemClock(),
            made_by={},
            progress=progress,
            on_cancelled=lambda _: None,
            hung_after_s=hung_after_s,
        )
        switching = SwitchedOffBackup(
            vsphere=web.vsphere,
            vcenter="main",
            state=State.open(tmp_path / "state"),
            clock=SystemClock(),
            mounts=web.vcenter.datastores,
            terms=SwitchingOff(1, force=False),
            run_id=RunId("1" * 32),
            backup=folder,
        )
        return await switching.run(vm_folder(web.vcenter.datastores["DS1"] / "web"))

    return run


async def test_the_point_of_a_vm_that_was_shut_down_is_offline(web: Running, backed_up: BackedUp) -> None:
    report = await backed_up()
    assert (report.consistency, report.warnings, web.power) == ("offline", (), ON)


async def test_a_vm_that_somebody_starts_meanwhile_makes_no_point(
    web: Running, backed_up: BackedUp, destination: Destination
) -> None:
    with pytest.raises(GateClosed, match="somebody started it"):
        await backed_up(lambda: web.vcenter.power(web.moref, on=True))
    assert not destination.repository.points.read()[0]
    assert web.power == ON


async def test_it_is_started_again_though_a_read_of_its_disks_never_comes_back(
    web: Running, backed_up: BackedUp, destination: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a mount whose server is gone: a cancelled run leaves the read to itself."""
    reading, never = threading.Event(), threading.Event()

    def hang(*_: object) -> None:
        reading.set()
        never.wait()

    monkeypatch.setattr(DiskImage, "read_into", hang)
    run = asyncio.ensure_future(backed_up(hung_after_s=0.1))
    await asyncio.to_thread(reading.wait)
    run.cancel()
    try:
        await asyncio.wait([run], timeout=10)
        assert run.cancelled()
        assert web.power == ON
    finally:
        never.set()
        await asyncio.wait([run])
    await until(lambda: list(destination.repository.backend.list("points/")))  # the end of the session that it had
    assert not destination.repository.points.read()[0]


async def test_a_disk_that_is_written_to_though_the_vm_is_off_makes_no_point(
    web: Running, backed_up: BackedUp, destination: Destination
) -> None:
    (disk,) = web.vcenter.disks(web.moref)
    with pytest.raises(GateClosed, match="although the VM was switched off"):
        await backed_up(lambda: disk.extent.write_bytes(b"y" * disk.size_bytes))
    assert not destination.repository.points.read()[0]
    assert web.power == ON


async def test_a_vm_is_found_by_where_it_lies_when_its_folder_does_not_tell_its_uuid(
    web: Running, backed_up: BackedUp
) -> None:
    vmx = web.vcenter.datastores["DS1"] / "web" / "web.vmx"
    vmx.write_text(vmx.read_text().replace("vc.uuid", "x"))
    assert (await backed_up()).consistency == "offline"
    assert "ShutdownGuest" in web.vcenter.calls().methods


async def test_a_vm_that_a_run_works_on_is_not_shut_down(web: Running, backed_up: BackedUp, tmp_path: Path) -> None:
    vm = await found(web.vsphere, web.moref)
    with State.open(tmp_path / "state").claim_vm(vm.id, RunId("2" * 32)), pytest.raises(Conflict):
        await backed_up()
    assert "ShutdownGuest" not in web.vcenter.calls().methods
