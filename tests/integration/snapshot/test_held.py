"""A held snapshot: the disks stand still inside the scope, and nothing of it is left after any way out."""

import asyncio
import contextlib
import os
from pathlib import Path

import pytest

from offhost.blockio import read_bytes
from offhost.errors import (
    ChangeTrackingInvalid,
    GateClosed,
    PermissionDenied,
    SessionLost,
    SnapshotFailed,
    TransportUnavailable,
)
from offhost.extents import Extent, ExtentMap
from offhost.snapshot.held import HeldSnapshot
from offhost.snapshot.removal import Patience
from offhost.vsphere.session import VSphere
from offhost.vsphere.snapshots import create
from support.held_vms import OWNER, HeldVm, mounted
from support.sessions import found
from support.vcenter import DiskSpec, Rule, SimulatedVCenter

pytestmark = pytest.mark.vsim

BEFORE = b"before "
AFTER = b"AFTER!!"


class WorkFailed(Exception):
    """What went wrong inside the scope."""


@pytest.mark.narrow
async def test_the_disk_stands_still_while_the_guest_writes_on(web: HeldVm) -> None:
    async with web.hold() as snap:
        (disk,) = snap.configuration.disks
        web.vcenter.write(web.vm.moref, web.disk_key, 0, AFTER)
        opened = await snap.open(disk)
        assert opened.source.size_bytes == disk.capacity_bytes
        assert read_bytes(opened.source, 0, 7) == BEFORE
        await snap.gate()
    assert web.vcenter.read(web.vm.moref, web.disk_key, 0, 7) == AFTER


async def test_no_file_of_the_disk_stays_open(web: HeldVm) -> None:
    async with web.hold() as snap:
        await snap.open(snap.configuration.disks[0])
        assert open_files_beneath(web.vcenter.datastores["DS1"])
    assert open_files_beneath(web.vcenter.datastores["DS1"]) == []


def open_files_beneath(folder: Path) -> list[str]:
    """What this process holds open there."""
    targets = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the one that listed them
            targets.append(os.readlink(f"/proc/self/fd/{fd}"))
    return [target for target in targets if target.startswith(f"{folder}/")]


async def test_the_snapshot_is_gone_after_the_scope(web: HeldVm) -> None:
    async with web.hold() as snap:
        assert web.snapshots() == ["offhost backup"]
    assert web.snapshots() == []
    assert snap.warnings == []


async def test_the_snapshot_is_gone_after_a_failure(web: HeldVm) -> None:
    with pytest.raises(WorkFailed):
        async with web.hold():
            raise WorkFailed
    assert web.snapshots() == []


@pytest.mark.narrow
async def test_the_snapshot_is_gone_after_a_cancellation(web: HeldVm) -> None:
    entered = asyncio.Event()

    async def work() -> None:
        async with web.hold():
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.ensure_future(work())
    await entered.wait()
    web.vcenter.rules([Rule("RemoveSnapshot_Task", mode="task", delay_ms=300)])
    task.cancel()
    await asyncio.sleep(0.1)
    task.cancel()  # the impatient second one, in the middle of the removal
    with pytest.raises(asyncio.CancelledError):
        await task
    assert web.snapshots() == []


async def test_a_removal_goes_on_being_tried_through_cancellations(web: HeldVm) -> None:
    entered = asyncio.Event()
    web.vcenter.rules([Rule("RemoveSnapshot_Task", mode="task", fault="GenericVmConfigFault", count=2)])

    async def work() -> None:
        async with web.hold(patience=Patience(times=3, wait_s=0.2)):
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.ensure_future(work())
    await entered.wait()
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0.15)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert web.snapshots() == []


async def test_a_cancellation_while_the_snapshot_is_being_taken_leaves_none(web: HeldVm) -> None:
    web.vcenter.rules([Rule("CreateSnapshot*", mode="task", delay_ms=400)])

    async def work() -> None:
        async with web.hold():
            pytest.fail("the scope was entered")

    task = asyncio.ensure_future(work())
    await asyncio.sleep(0.25)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert "CreateSnapshotEx_Task" in web.vcenter.calls().methods
    assert web.snapshots() == []


async def test_a_snapshot_whose_creation_was_lost_on_the_wire_is_waited_for_and_removed(web: HeldVm) -> None:
    """The call reached vCenter, its answer did not: what is made is known by its description alone."""
    foreign = web.vcenter.create_foreign_snapshot(web.vm.moref)
    slow = Rule("CreateSnapshotEx_Task", mode="task", delay_ms=500, count=1)
    web.vcenter.rules([slow, Rule("CreateSnapshotEx_Task", mode="drop")])
    reached = asyncio.ensure_future(create(web.vsphere, web.vm, OWNER.description(), quiesce_minutes=None))
    await asyncio.sleep(0.2)
    with pytest.raises(SessionLost):
        async with web.hold(track_changes=False):
            pytest.fail("the scope was entered")
    await reached
    assert [one.moref for one in web.vcenter.snapshots(web.vm.moref)] == [foreign]


@pytest.mark.narrow
async def test_a_removal_that_fails_is_tried_again(web: HeldVm) -> None:
    async with web.hold() as snap:
        busy = {"task": {"type": "Task", "value": "task-1"}}
        web.vcenter.rules([Rule("RemoveSnapshot_Task", mode="task", fault="TaskInProgress", fields=busy, count=2)])
    assert web.snapshots() == []
    assert snap.warnings == []


async def test_a_session_that_is_lost_does_not_keep_the_snapshot(web: HeldVm) -> None:
    async with web.hold() as snap:
        web.vcenter.drop_sessions()
    assert web.snapshots() == []
    assert snap.warnings == []


async def test_a_removal_that_never_succeeds_is_a_warning_with_names(
    web: HeldVm, caplog: pytest.LogCaptureFixture
) -> None:
    async with web.hold() as snap:
        web.vcenter.rules([Rule("RemoveSnapshot_Task", mode="task", fault="GenericVmConfigFault")])
    (warning,) = snap.warnings
    assert "web" in warning
    assert OWNER.run in warning
    assert any(record.levelname == "ERROR" for record in caplog.records)
    assert web.vcenter.calls().methods["RemoveSnapshot_Task"] == 4


async def test_a_failed_removal_does_not_hide_what_went_wrong_inside(web: HeldVm) -> None:
    web.vcenter.rules([Rule("RemoveSnapshot_Task", mode="task", fault="GenericVmConfigFault")])
    with pytest.raises(WorkFailed):
        async with web.hold():
            raise WorkFailed


async def test_a_removal_without_the_privilege_is_not_repeated(web: HeldVm) -> None:
    lacking = {
        "object": {"type": "VirtualMachine", "value": web.vm.moref},
        "privilegeId": "VirtualMachine.State.RemoveSnapshot",
    }
    async with web.hold() as snap:
        web.vcenter.rules([Rule("RemoveSnapshot_Task", fault="NoPermission", fields=lacking)])
    assert "VirtualMachine.State.RemoveSnapshot" in snap.warnings[0]
    assert web.vcenter.calls().methods["RemoveSnapshot_Task"] == 1


async def test_deltas_that_stay_behind_are_reported_not_consolidated(web: HeldVm) -> None:
    web.vcenter.stick_consolidation(web.vm.moref)
    async with web.hold() as snap:
        pass
    assert any("consolidation" in warning for warning in snap.warnings)
    assert "ConsolidateVMDisks_Task" not in web.vcenter.calls().methods


async def test_foreign_snapshots_are_left_alone_and_are_its_lineage(web: HeldVm) -> None:
    foreign = web.vcenter.create_foreign_snapshot(web.vm.moref)
    async with web.hold() as snap:
        assert [one.partition("@")[0] for one in snap.lineage] == [foreign]
        (disk,) = snap.configuration.disks
        assert len(disk.backing.chain) == 2
        opened = await snap.open(disk)
        assert read_bytes(opened.source, 0, 7) == BEFORE
    assert [one.moref for one in web.vcenter.snapshots(web.vm.moref)] == [foreign]


async def test_the_snapshot_of_another_run_of_ours_is_left_alone(web: HeldVm) -> None:
    other = OWNER.description().replace(OWNER.run, "c" * 32)
    theirs = web.vcenter.create_foreign_snapshot(web.vm.moref, description=other)
    async with web.hold():
        pass
    assert [one.moref for one in web.vcenter.snapshots(web.vm.moref)] == [theirs]


async def test_a_snapshot_refused_for_want_of_a_privilege_says_which(web: HeldVm) -> None:
    lacking = {
        "object": {"type": "VirtualMachine", "value": web.vm.moref},
        "privilegeId": "VirtualMachine.State.CreateSnapshot",
    }
    web.vcenter.rules([Rule("CreateSnapshot*", fault="NoPermission", fields=lacking)])
    with pytest.raises(PermissionDenied, match=r"VirtualMachine\.State\.CreateSnapshot"):
        async with web.hold():
            pytest.fail("the scope was entered")


async def test_a_template_is_held_as_it_is(web: HeldVm) -> None:
    web.vcenter.power(web.vm.moref, on=False)
    template = await made_a_template(web)
    async with template.hold() as snap:
        assert template.snapshots() == []
        assert snap.consistency == "offline"
        (disk,) = snap.configuration.disks
        opened = await snap.open(disk)
        assert read_bytes(opened.source, 0, 7) == BEFORE
        await snap.gate()
    methods = web.vcenter.calls().methods
    assert not [name for name in methods if "Snapshot" in name]


async def made_a_template(web: HeldVm) -> HeldVm:
    """The VM, marked as a template."""
    moref = web.vm.moref
    await web.vsphere.change(lambda live: live.vm(moref).MarkAsTemplate(), "marking as a template", "web")
    template = await found(web.vsphere, moref)
    assert template.template
    return HeldVm(web.vcenter, web.vsphere, template)


async def test_a_disk_no_transport_can_read_is_named_with_every_reason(web: HeldVm) -> None:
    async with web.hold(transports=[]) as snap:
        with pytest.raises(TransportUnavailable, match="no transport can read"):
            await snap.open(snap.configuration.disks[0])


async def test_the_vmx_and_nvram_files_come_along(web: HeldVm) -> None:
    async with web.hold() as snap:
        files = await snap.files()
    assert sorted(files) == ["web.nvram", "web.vmx"]
    assert b'displayName = "web"' in files["web.vmx"]
    assert snap.warnings == []


async def test_files_that_cannot_be_had_are_warnings(vcenter: SimulatedVCenter, vsphere: VSphere) -> None:
    moref = vcenter.create_vm("vs", [DiskSpec(1 << 20)])
    vm = HeldVm(vcenter, vsphere, await found(vsphere, moref))
    async with vm.hold(transports=[]) as snap:
        assert await snap.files() == {}
    assert any("vs.vmx" in warning for warning in snap.warnings)


class TestChangedAreas:
    """Incremental reading, from the switch on."""

    async def test_tracking_is_switched_on_before_the_first_snapshot(
        self, vcenter: SimulatedVCenter, vsphere: VSphere
    ) -> None:
        untracked = vcenter.create_vm("db", [DiskSpec(1 << 20)])
        vm = HeldVm(vcenter, vsphere, await found(vsphere, untracked))
        async with vm.hold() as first:
            base = first.configuration.disks[0].change_id
        assert base is not None
        vcenter.write(untracked, vm.disk_key, 70000, b"x")
        async with vm.hold() as second:
            changed = await second.changed(second.configuration.disks[0], base)
        assert changed == ExtentMap([Extent(64 << 10, 128 << 10)])
        assert first.warnings == second.warnings == []

    async def test_tracking_that_cannot_be_switched_on_is_a_warning_and_a_full_read(
        self, vcenter: SimulatedVCenter, vsphere: VSphere
    ) -> None:
        moref = vcenter.create_vm("db", [DiskSpec(1 << 20)])
        vcenter.create_foreign_snapshot(moref)
        vm = HeldVm(vcenter, vsphere, await found(vsphere, moref))
        async with vm.hold() as snap:
            assert snap.configuration.disks[0].change_id is None
            with pytest.raises(ChangeTrackingInvalid):
                await snap.changed(snap.configuration.disks[0], "52 aa/1")
        assert any("read in full" in warning for warning in snap.warnings)

    async def test_tracking_that_is_not_wanted_is_left_off(self, vcenter: SimulatedVCenter, vsphere: VSphere) -> None:
        moref = vcenter.create_vm("db", [DiskSpec(1 << 20)])
        vm = HeldVm(vcenter, vsphere, await found(vsphere, moref))
        async with vm.hold(track_changes=False):
            pass
        assert "ReconfigVM_Task" not in vcenter.calls().methods


class TestBrokenTracking:
    """A journal that cannot answer is renewed once the VM is free of snapshots, so that not every night is full."""

    async def broken(self, web: HeldVm) -> tuple[HeldSnapshot, str | None]:
        """A backup whose question is answered with a FileFault; and the change id it had."""
        async with web.hold() as snap:
            (disk,) = snap.configuration.disks
            web.vcenter.rules([Rule("QueryChangedDiskAreas", fault="FileFault", fields={"file": "x"})])
            with pytest.raises(ChangeTrackingInvalid, match="FileFault"):
                await snap.changed(disk, str(disk.change_id))
        web.vcenter.rules([])
        return snap, disk.change_id

    async def test_it_is_renewed_and_said(self, web: HeldVm) -> None:
        snap, before = await self.broken(web)
        assert any("renewed" in warning for warning in snap.warnings)
        assert web.snapshots() == []
        async with web.hold() as after:
            change_id = after.configuration.disks[0].change_id
        assert change_id is not None
        assert change_id.partition("/")[0] != str(before).partition("/")[0]

    async def test_it_is_left_alone_over_foreign_snapshots(self, web: HeldVm) -> None:
        web.vcenter.create_foreign_snapshot(web.vm.moref)
        snap, _ = await self.broken(web)
        assert any("could not be renewed" in warning for warning in snap.warnings)
        assert "ReconfigVM_Task" not in web.vcenter.calls().methods

    async def test_a_failed_backup_does_not_renew_it(self, web: HeldVm) -> None:
        web.vcenter.rules([Rule("QueryChangedDiskAreas", fault="FileFault", fields={"file": "x"})])
        with pytest.raises(ChangeTrackingInvalid):
            async with web.hold() as snap:
                await snap.changed(snap.configuration.disks[0], str(snap.configuration.disks[0].change_id))
        assert "ReconfigVM_Task" not in web.vcenter.calls().methods


class TestReverts:
    """A revert takes the disk back in time, and can leave lineage and change id as they were."""

    async def test_a_revert_since_the_base_is_seen(self, web: HeldVm) -> None:
        foreign = web.vcenter.create_foreign_snapshot(web.vm.moref)
        async with web.hold() as base:
            pass
        web.vcenter.revert(web.vm.moref, foreign)
        async with web.hold() as snap:
            assert snap.lineage == base.lineage
            assert await snap.reverted_since(base.endpoint_time.isoformat())

    async def test_a_revert_before_the_base_does_not_count(self, web: HeldVm) -> None:
        web.vcenter.revert(web.vm.moref, web.vcenter.create_foreign_snapshot(web.vm.moref))
        await asyncio.sleep(0.1)
        async with web.hold() as base:
            pass
        async with web.hold() as snap:
            assert not await snap.reverted_since(base.endpoint_time.isoformat())

    async def test_events_that_cannot_be_read_are_a_doubt_and_a_warning(self, web: HeldVm) -> None:
        async with web.hold() as snap:
            web.vcenter.rules([Rule("CreateCollectorForEvents", fault="NotSupported")])
            assert await snap.reverted_since(snap.endpoint_time.isoformat())
        assert any("read in full" in warning for warning in snap.warnings)

    async def test_a_base_without_a_time_is_a_doubt(self, web: HeldVm) -> None:
        async with web.hold() as snap:
            assert await snap.reverted_since("")


class TestTheGate:
    """Whatever happens to the snapshot or its files closes the gate, and the run is discarded."""

    async def test_it_closes_when_somebody_removes_the_snapshot(self, web: HeldVm) -> None:
        async with web.hold() as snap:
            (shown,) = web.vcenter.snapshots(web.vm.moref)
            web.vcenter.remove_snapshot(web.vm.moref, shown.moref)
            with pytest.raises(GateClosed, match="removed while it was read"):
                await snap.gate()
        assert snap.warnings == []

    async def test_it_closes_when_the_vm_moves_to_another_datastore(self, web: HeldVm) -> None:
        async with web.hold() as snap:
            web.vcenter.migrate(web.vm.moref, "DS2")
            with pytest.raises(GateClosed, match="datastore was DS1, now DS2"):
                await snap.gate()
        assert web.snapshots() == []

    async def test_it_closes_when_an_opened_file_is_replaced(self, web: HeldVm) -> None:
        base = web.vcenter.disks(web.vm.moref)[0].extent
        async with web.hold() as snap:
            await snap.open(snap.configuration.disks[0])
            copy = base.with_name("copy")
            copy.write_bytes(base.read_bytes())
            copy.rename(base)
            with pytest.raises(GateClosed):
                await snap.gate()

    async def test_it_stays_open_over_a_foreign_snapshot_of_the_running_vm(self, web: HeldVm) -> None:
        async with web.hold() as snap:
            web.vcenter.create_foreign_snapshot(web.vm.moref)
            await snap.gate()


async def test_a_snapshot_taken_in_vain_is_not_left(web: HeldVm) -> None:
    """Everything after the creation may fail as well: here the reading of the tree."""
    web.vcenter.rules([Rule("RetrievePropertiesEx", fault="SystemError", nth=0)])
    with contextlib.suppress(Exception):
        async with web.hold():
            pytest.fail("the scope was entered")
    web.vcenter.rules([])
    assert web.snapshots() == []


async def test_too_many_snapshots_is_a_snapshot_error(web: HeldVm) -> None:
    web.vcenter.rules([Rule("CreateSnapshot*", mode="task", fault="TooManySnapshotLevels")])
    with pytest.raises(SnapshotFailed, match="TooManySnapshotLevels"):
        async with web.hold(transports=mounted(web.vcenter)):
            pytest.fail("the scope was entered")
