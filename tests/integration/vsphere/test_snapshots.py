"""Snapshots: whose they are, what a removal leaves alone, tasks that fail or are cancelled."""

import asyncio

import pytest

from offhost.errors import QuiesceFailed, SnapshotFailed, VmGone
from offhost.ids import InstallationId, RunId
from offhost.vsphere.configuration import configuration, snapshot_configuration
from offhost.vsphere.inventory import find
from offhost.vsphere.session import VSphere
from offhost.vsphere.snapshots import (
    Owner,
    all_snapshots,
    create,
    creation_settled,
    current_lineage,
    lineage,
    owner_of,
    remove,
    snapshots,
)
from offhost.vsphere.values import Vm, VssOptions
from support.vcenter import DiskSpec, Rule, SimulatedVCenter

pytestmark = pytest.mark.vsim

OWNER = Owner(InstallationId("a" * 32), RunId("b" * 32))


@pytest.fixture
async def vm(vcenter: SimulatedVCenter, vsphere: VSphere) -> Vm:
    """A running VM with one disk."""
    return await find(vsphere, vcenter.create_vm("web", [DiskSpec(1 << 20)], tools_running=True))


async def test_a_snapshot_says_whose_it_is(vsphere: VSphere, vm: Vm) -> None:
    made = await create(vsphere, vm, OWNER.description(), quiesce_minutes=None)
    (shown,) = await snapshots(vsphere, vm)
    assert (shown.moref, shown.parent, shown.quiesced, shown.power) == (made, None, False, "on")
    assert owner_of(shown) == OWNER


async def test_other_peoples_snapshots_have_no_owner_of_ours(
    vcenter: SimulatedVCenter, vsphere: VSphere, vm: Vm
) -> None:
    vcenter.create_foreign_snapshot(vm.moref, description="see also " + OWNER.description())
    (shown,) = await snapshots(vsphere, vm)
    assert owner_of(shown) is None


async def test_a_quiesced_snapshot_is_flagged_so(vsphere: VSphere, vm: Vm) -> None:
    await create(vsphere, vm, "", quiesce_minutes=15)
    (shown,) = await snapshots(vsphere, vm)
    assert shown.quiesced


async def test_an_endpoint_without_the_newer_call_is_asked_by_the_older(
    vcenter: SimulatedVCenter, vsphere: VSphere, vm: Vm
) -> None:
    unknown = {"receiver": {"type": "VirtualMachine", "value": vm.moref}, "method": "CreateSnapshotEx_Task"}
    vcenter.rules([Rule("CreateSnapshotEx_Task", fault="MethodNotFound", fields=unknown)])
    await create(vsphere, vm, "", quiesce_minutes=15, vss=VssOptions())
    (shown,) = await snapshots(vsphere, vm)
    assert shown.quiesced


async def test_the_frozen_configuration_names_the_base_and_the_vm_goes_on_in_a_delta(vsphere: VSphere, vm: Vm) -> None:
    (before,) = (await configuration(vsphere, vm)).disks
    made = await create(vsphere, vm, "", quiesce_minutes=None)
    (frozen,) = (await snapshot_configuration(vsphere, vm, made)).disks
    (running,) = (await configuration(vsphere, vm)).disks
    assert frozen.backing == before.backing
    assert running.backing.chain == (running.backing.file, before.backing.file)
    assert running.key == frozen.key == before.key


async def test_removing_takes_neither_children_nor_parents(vcenter: SimulatedVCenter, vsphere: VSphere, vm: Vm) -> None:
    below = vcenter.create_foreign_snapshot(vm.moref)
    ours = await create(vsphere, vm, OWNER.description(), quiesce_minutes=None)
    above = vcenter.create_foreign_snapshot(vm.moref, name="after")
    await remove(vsphere, vm, ours)
    assert [one.moref for one in await snapshots(vsphere, vm)] == [below, above]


async def test_removing_what_is_gone_says_so(vsphere: VSphere, vm: Vm) -> None:
    made = await create(vsphere, vm, "", quiesce_minutes=None)
    await remove(vsphere, vm, made)
    with pytest.raises(VmGone, match=made):
        await remove(vsphere, vm, made)


async def test_the_lineage_is_the_snapshots_from_the_root_to_the_parent(
    vcenter: SimulatedVCenter, vsphere: VSphere, vm: Vm
) -> None:
    root = vcenter.create_foreign_snapshot(vm.moref)
    child = vcenter.create_foreign_snapshot(vm.moref, name="later")
    expected = current_lineage(await snapshots(vsphere, vm))
    ours = await create(vsphere, vm, "", quiesce_minutes=None)
    found = lineage(await snapshots(vsphere, vm), ours)
    assert [one.partition("@")[0] for one in found] == [root, child]
    assert found == expected


async def test_all_trees_are_listed_at_once(vcenter: SimulatedVCenter, vsphere: VSphere, vm: Vm) -> None:
    vcenter.create_vm("without")
    made = vcenter.create_foreign_snapshot(vm.moref)
    assert {ref: [one.moref for one in tree] for ref, tree in (await all_snapshots(vsphere)).items()} == {
        vm.moref: [made]
    }


async def test_a_refused_snapshot_says_why(vcenter: SimulatedVCenter, vsphere: VSphere, vm: Vm) -> None:
    vcenter.rules([Rule("CreateSnapshot*", mode="task", fault="TooManySnapshotLevels")])
    with pytest.raises(SnapshotFailed, match=r"web: .*TooManySnapshotLevels"):
        await create(vsphere, vm, "", quiesce_minutes=None)


@pytest.mark.parametrize("fault", ["ApplicationQuiesceFault", "FilesystemQuiesceFault"])
async def test_a_guest_that_does_not_quiesce_is_told_apart(
    vcenter: SimulatedVCenter, vsphere: VSphere, vm: Vm, fault: str
) -> None:
    vcenter.rules([Rule("CreateSnapshot*", mode="task", fault=fault)])
    with pytest.raises(QuiesceFailed, match=fault):
        await create(vsphere, vm, "", quiesce_minutes=5)


async def test_a_cancelled_creation_is_complete_before_the_cancellation(
    vcenter: SimulatedVCenter, vsphere: VSphere, vm: Vm
) -> None:
    vcenter.rules([Rule("CreateSnapshot*", mode="task", delay_ms=400)])
    creation = asyncio.ensure_future(create(vsphere, vm, "", quiesce_minutes=None))
    await asyncio.sleep(0.2)
    creation.cancel()
    with pytest.raises(asyncio.CancelledError):
        await creation
    assert len(vcenter.snapshots(vm.moref)) == 1


async def test_a_creation_under_way_can_be_waited_for(vcenter: SimulatedVCenter, vsphere: VSphere, vm: Vm) -> None:
    vcenter.rules([Rule("CreateSnapshot*", mode="task", delay_ms=400)])
    creation = asyncio.ensure_future(create(vsphere, vm, "", quiesce_minutes=None))
    await asyncio.sleep(0.2)
    await creation_settled(vsphere, vm)
    assert len(vcenter.snapshots(vm.moref)) == 1
    await creation
