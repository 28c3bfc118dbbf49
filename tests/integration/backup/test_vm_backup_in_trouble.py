"""What a VM's backup does when something around it is wrong: before, while and after the snapshot is held."""

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from pyVmomi import vim

from offhost.backup import vm as vm_backup
from offhost.backup.report import VmReport
from offhost.clock import SystemClock
from offhost.errors import NoSpace
from offhost.ids import RunId
from offhost.pacing import Pace, Paces
from offhost.repository.repository import Repository
from offhost.snapshot.growth import SnapshotLimits
from offhost.snapshot.held import held
from offhost.snapshot.removal import Patience
from offhost.vsphere.configuration import configuration
from offhost.vsphere.inventory import vms
from offhost.vsphere.session import VSphere
from offhost.vsphere.snapshots import Owner
from offhost.vsphere.values import QuiescePolicy, Vm, VmConfiguration
from support.backed_up_vms import BackedUpVm, Interrupted
from support.held_vms import OWNER, mounted
from support.pyvmomi_client import PlainClient
from support.repositories import noise
from support.sessions import found
from support.vcenter import DiskSpec, Rule

GRAIN = 64 << 10
DEAD = Owner(OWNER.installation, RunId("d" * 32))


def snapshots_asked_for(web: BackedUpVm) -> int:
    """How many were asked for since the calls were counted anew."""
    return web.vcenter.calls().methods.get("CreateSnapshotEx_Task", 0)


class TestBefore:
    """Nothing is begun that can be known to fail."""

    async def test_a_dead_runs_snapshot_goes_before_the_next_backup_without_a_restart(self, web: BackedUpVm) -> None:
        web.vcenter.create_foreign_snapshot(web.moref, "offhost backup", DEAD.description())
        report = await web.run(is_dead=lambda run: run == DEAD.run)
        assert web.content(report) == web.seen_by_guest()
        assert (web.snapshots(), report.warnings) == ([], ())

    async def test_the_snapshot_of_a_run_that_lives_is_left(self, web: BackedUpVm) -> None:
        web.vcenter.create_foreign_snapshot(web.moref, "another run's", DEAD.description())
        await web.run(is_dead=lambda _: False)
        assert web.snapshots() == ["another run's"]

    async def test_one_that_cannot_be_removed_is_a_warning_and_the_backup_goes_on(self, web: BackedUpVm) -> None:
        web.vcenter.create_foreign_snapshot(web.moref, "offhost backup", DEAD.description())
        web.vcenter.rules([Rule("RemoveSnapshot_Task", fault="TaskInProgress", count=2)])
        report = await web.run(is_dead=lambda run: run == DEAD.run)
        assert report.point
        assert any(DEAD.run in warning for warning in report.warnings)

    async def test_a_vm_that_nothing_can_read_gets_no_snapshot(self, web: BackedUpVm) -> None:
        report = await web.run(transports=[])
        assert report.problem is not None
        assert report.problem.code == "transport_unavailable"
        assert snapshots_asked_for(web) == 0

    async def test_a_repository_that_takes_nothing_costs_no_snapshot(
        self, web: BackedUpVm, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object) -> None:
            raise NoSpace("the repository is full")

        monkeypatch.setattr(Repository, "session", full)
        report = await web.run()
        assert report.problem is not None
        assert report.problem.code == "no_space"
        assert snapshots_asked_for(web) == 0

    async def test_a_vm_that_was_started_since_it_was_chosen_is_quiesced(self, web: BackedUpVm) -> None:
        web.vcenter.power(web.moref, on=False)
        chosen = await found(web.vsphere, web.moref)
        web.vcenter.power(web.moref, on=True)
        report = await web.backup(quiesce=QuiescePolicy("require")).run(chosen)
        assert report.consistency == "filesystem"

    async def test_two_vms_of_one_identity_are_both_refused_with_both_names(self, web: BackedUpVm) -> None:
        copy = replace(web, moref=web.vcenter.create_vm("copy", [DiskSpec(1 << 20)]))
        with PlainClient(web.vcenter) as client:
            await asyncio.to_thread(_share_identity, client, web.moref, copy.moref)
        for vm in await vms(web.vsphere):
            report = await web.backup().run(vm)
            assert report.problem is not None
            assert "/web" in report.problem.message
            assert "/copy" in report.problem.message
        assert snapshots_asked_for(web) == 0


def _share_identity(client: PlainClient, original: str, copy: str) -> None:
    identity = client.vm(original).config.instanceUuid
    client.wait(client.vm(copy).ReconfigVM_Task(vim.vm.ConfigSpec(instanceUuid=identity)))


class TestWhile:
    """Of what happens while the snapshot is held."""

    async def test_a_read_that_hangs_does_not_hold_the_snapshot_after_a_cancellation(self, web: BackedUpVm) -> None:
        """As on an NFS mount whose server is gone: the thread never comes back."""
        hanging, server_is_back = threading.Event(), threading.Event()

        def hang() -> None:
            hanging.set()
            server_is_back.wait(30)

        stuck = Interrupted(mounted(web.vcenter)[0], hang)
        run = asyncio.create_task(web.run(transports=[stuck], hung_after_s=0.2))
        await asyncio.to_thread(hanging.wait, 10)
        run.cancel()
        try:
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(run, 10)
            assert web.snapshots() == []
            assert web.destination.repository.points.all() == []
        finally:
            server_is_back.set()

    async def test_a_read_that_hangs_ends_its_run_by_itself(self, web: BackedUpVm) -> None:
        server_is_back = threading.Event()

        def hang() -> None:
            server_is_back.wait(30)

        stuck = Interrupted(mounted(web.vcenter)[0], hang)
        try:
            report = await asyncio.wait_for(web.run(transports=[stuck], stalled_after_s=0.4, hung_after_s=0.2), 10)
            assert report.problem is not None
            assert "nothing of it could be read for" in report.problem.message
            assert web.snapshots() == []
            assert web.destination.repository.points.all() == []
        finally:
            server_is_back.set()

    async def test_a_read_that_is_held_back_on_purpose_does_not_count_as_hanging(self, web: BackedUpVm) -> None:
        clock = SystemClock()
        slow = Pace(4 << 20, clock)
        slow.take(4 << 20, threading.Event())  # the next one waits for a second
        report = await web.run(paces=Paces((slow,)), stalled_after_s=0.4)
        assert web.content(report) == web.seen_by_guest()

    async def test_a_cancelled_run_tells_what_it_leaves(self, web: BackedUpVm, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(vm_backup, "held", _impatient(held))
        told: list[VmReport] = []
        reading, go_on = threading.Event(), threading.Event()

        def wait() -> None:
            reading.set()
            go_on.wait(10)

        stuck = Interrupted(mounted(web.vcenter)[0], wait)
        run = asyncio.create_task(web.run(transports=[stuck], on_cancelled=told.append))
        await asyncio.to_thread(reading.wait, 10)
        web.vcenter.rules([Rule("RemoveSnapshot_Task", fault="TaskInProgress")])
        run.cancel()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await run
        (report,) = told
        assert report.point is None
        assert any("could not be removed" in warning for warning in report.warnings)

    async def test_a_vcenter_that_does_not_answer_for_a_while_does_not_end_the_run(self, web: BackedUpVm) -> None:
        def outage() -> None:
            web.vcenter.rules([Rule("*", mode="http503")])
            time.sleep(0.5)
            web.vcenter.rules([])

        limits = SnapshotLimits(0.0, look_every_s=0.02)
        report = await web.run(transports=[Interrupted(mounted(web.vcenter)[0], outage)], snapshot=limits)
        assert web.content(report) == web.seen_by_guest()

    async def test_a_datastore_that_fills_up_does(self, web: BackedUpVm) -> None:
        def fills_up() -> None:
            web.vcenter.set_free_space("DS1", free_bytes=1, capacity_bytes=100 << 30)
            time.sleep(0.5)

        limits = SnapshotLimits(0.001, look_every_s=0.02)
        report = await web.run(transports=[Interrupted(mounted(web.vcenter)[0], fills_up)], snapshot=limits)
        assert report.problem is not None
        assert report.problem.code == "datastore_low_space"
        assert web.snapshots() == []


def _impatient(hold: Callable[..., Any]) -> Callable[..., AbstractAsyncContextManager[Any]]:
    return lambda *given, **named: hold(*given, **named, patience=Patience(times=1, wait_s=0.01))


class TestBases:
    """What changed is asked only where the answer can be believed."""

    async def test_a_clock_that_was_wrong_at_the_base_does_not_hide_a_revert(self, web: BackedUpVm) -> None:
        await web.run()
        before = web.vcenter.create_foreign_snapshot(web.moref)
        wrong = replace(web.backup(), clock=_Ahead())
        web.write(0, noise(1, GRAIN))
        await wrong.run(await found(web.vsphere, web.moref))
        web.write(GRAIN, noise(2, GRAIN))
        web.vcenter.revert(web.moref, before, keep_uuid=True)
        report = await web.run()
        assert report.disks[0].mode == "full"
        assert web.content(report) == web.seen_by_guest()

    async def test_a_template_is_read_in_full_whatever_change_ids_its_disks_carry(
        self, web: BackedUpVm, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        web.vcenter.power(web.moref, on=False)
        moref = web.moref
        await web.vsphere.change(lambda live: live.vm(moref).MarkAsTemplate(), "marking as a template", "web")

        async def with_change_ids(vsphere: VSphere, vm: Vm) -> VmConfiguration:
            present = await configuration(vsphere, vm)
            return replace(present, disks=tuple(replace(disk, change_id="52 aa/4") for disk in present.disks))

        monkeypatch.setattr("offhost.snapshot.held.configuration", with_change_ids)
        await web.run()
        report = await web.run()
        assert web.content(report) == web.seen_by_guest()
        assert [disk.reason for disk in report.disks] == ["a template has no snapshot to ask about changes"]
        assert [disk.reason for disk in (await web.planned()).disks] == [report.disks[0].reason]


class _Ahead(SystemClock):
    def now(self) -> Any:
        return super().now() + timedelta(hours=1)
