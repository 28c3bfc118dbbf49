"""Our snapshot goes away, whatever vSphere says on the way: what counts is a fresh listing without it."""

import asyncio
from collections import Counter
from dataclasses import replace

import pytest

from offhost.extents import ExtentMap
from offhost.ids import RunId
from offhost.snapshot.removal import Patience, RemovalTurns, remove_ours
from offhost.transport.contract import OpenDisk
from offhost.vsphere.values import Disk, QuiescePolicy
from support.held_vms import OWNER, HeldVm
from support.vcenter import Rule

pytestmark = pytest.mark.vsim

PATIENCE = Patience(times=3, wait_s=0.02)


@pytest.mark.parametrize("mode", ["task", "soap"])
async def test_a_removal_whose_task_vcenter_forgot_is_tried_until_the_listing_shows_none(
    web: HeldVm, mode: str
) -> None:
    async with web.hold() as snap:
        web.vcenter.rules([Rule("RemoveSnapshot_Task", mode=mode, fault="ManagedObjectNotFound", count=1)])
    assert web.snapshots() == []
    assert snap.warnings == []


async def test_a_snapshot_that_stays_listed_is_told_however_its_removal_ended(web: HeldVm) -> None:
    async with web.hold() as snap:
        web.vcenter.rules([Rule("RemoveSnapshot_Task", fault="ManagedObjectNotFound")])
    (warning,) = snap.warnings
    assert "still lists the snapshot" in warning


async def test_a_session_lost_meanwhile_does_not_end_the_patience(web: HeldVm) -> None:
    """As when the password was changed and is put right a moment later."""
    async with web.hold() as snap:
        web.vcenter.rules([Rule("RemoveSnapshot_Task", fault="InvalidLogin", count=2)])
    assert web.snapshots() == []
    assert snap.warnings == []


async def test_a_vm_registered_anew_meanwhile_is_found_by_its_identity(web: HeldVm) -> None:
    web.vcenter.create_foreign_snapshot(web.vm.moref, description=OWNER.description())
    before = replace(web.vm, moref="vm-99999")
    assert await remove_ours(web.vsphere, before, OWNER, settle=True, patience=PATIENCE) == []
    assert web.snapshots() == []


async def test_a_vm_that_is_not_there_any_more_is_told_by_name(web: HeldVm) -> None:
    async with web.hold() as snap:
        web.vcenter.power(web.vm.moref, on=False)
        web.vcenter.destroy_vm(web.vm.moref)
    (warning,) = snap.warnings
    assert warning.startswith("web: ")
    assert "does not exist any more" in warning


async def test_what_stays_after_a_snapshot_that_never_was_held_is_told(web: HeldVm) -> None:
    warnings: list[str] = []
    web.vcenter.rules(
        [Rule("CreateSnapshotEx_Task", mode="drop"), Rule("RemoveSnapshot_Task", mode="task", fault="SystemError")]
    )
    web.vcenter.create_foreign_snapshot(web.vm.moref, "offhost backup", OWNER.description())
    with pytest.raises(Exception, match="connection broke"):
        async with web.hold(warnings=warnings, track_changes=False):
            pytest.fail("the scope was entered")
    assert OWNER.run in warnings[-1]
    assert len(web.snapshots()) == 1


class TornDisk:
    """A transport whose disks fail to close."""

    name = "torn"

    def refusal(self, _vm: object, _disk: Disk) -> str | None:
        return None

    def open(self, _vm: object, _disk: Disk) -> OpenDisk:
        return OpenDisk(source=_Torn(), transport=self.name, identify=lambda: "same")

    def fetch(self, path: str, limit_bytes: int) -> bytes:
        raise AssertionError((path, limit_bytes))


class _Torn:
    size_bytes = 1 << 20

    def read_into(self, offset: int, buffer: memoryview) -> None:
        raise AssertionError((offset, buffer))

    def allocated(self) -> ExtentMap:
        return ExtentMap.whole(self.size_bytes)

    def close(self) -> None:
        raise OSError(5, "Input/output error")


async def test_a_disk_that_cannot_be_closed_does_not_keep_the_snapshot(web: HeldVm) -> None:
    async with web.hold(transports=[TornDisk()]) as snap:
        for disk in snap.configuration.disks:
            await snap.open(disk)
            await snap.open(disk)
    assert web.snapshots() == []
    assert [("closing" in warning, "Input/output error" in warning) for warning in snap.warnings] == [(True, True)] * 2


async def test_a_stun_whose_snapshot_could_not_be_removed_at_once_is_made_good(web: HeldVm) -> None:
    """Renewing change tracking makes snapshots of its own: none of them may stay."""
    async with web.hold() as snap:
        snap.tracking_broken = True
        web.vcenter.rules([Rule("RemoveSnapshot_Task", mode="task", fault="SystemError", nth=2, count=4)])
    assert web.snapshots() == []
    assert any("could not be renewed" in warning for warning in snap.warnings)


@pytest.mark.parametrize("fault", ["GenericVmConfigFault", "SystemError", "Timedout", "OperationNotSupportedByGuest"])
async def test_try_falls_back_whatever_vsphere_calls_the_guests_failure(web: HeldVm, fault: str) -> None:
    web.vcenter.rules([Rule("CreateSnapshot*", mode="task", fault=fault, quiesced=True)])
    async with web.hold(quiesce=QuiescePolicy("try")) as snap:
        assert snap.consistency == "crash"
    (warning,) = snap.warnings
    assert fault in warning


async def test_try_does_not_take_a_missing_privilege_for_the_guests_failure(web: HeldVm) -> None:
    lacking = {"object": {"type": "VirtualMachine", "value": web.vm.moref}, "privilegeId": "x"}
    web.vcenter.rules([Rule("CreateSnapshot*", fault="NoPermission", fields=lacking, quiesced=True)])
    with pytest.raises(Exception, match="lacks x"):
        async with web.hold(quiesce=QuiescePolicy("try")):
            pytest.fail("the scope was entered")


async def test_only_the_owner_asked_for_is_removed(web: HeldVm) -> None:
    other = replace(OWNER, run=RunId("c" * 32))
    for owner in (OWNER, other):
        web.vcenter.create_foreign_snapshot(web.vm.moref, description=owner.description())
    assert await remove_ours(web.vsphere, web.vm, OWNER, settle=False, patience=PATIENCE) == []
    assert [one.description for one in web.vcenter.snapshots(web.vm.moref)] == [other.description()]


async def test_removals_take_turns_on_each_datastore() -> None:
    turns, at_work, most = RemovalTurns(2), Counter[str](), Counter[str]()

    async def remove(*datastores: str) -> None:
        async with turns.on(datastores):
            at_work.update(datastores)
            for name in datastores:
                most[name] = max(most[name], at_work[name])
            await asyncio.sleep(0.01)
            at_work.subtract(datastores)

    async with asyncio.timeout(10):
        await asyncio.gather(*(remove("a", "b") for _ in range(5)), *(remove("b", "a") for _ in range(5)), remove("c"))
    assert most == {"a": 2, "b": 2, "c": 1}
