"""Change tracking: on by the rules, asked in pages, disbelieved whenever its answer is not to be believed."""

import pytest

from offhost.errors import ChangeTrackingInvalid
from offhost.extents import Extent, ExtentMap
from offhost.vsphere.configuration import snapshot_configuration
from offhost.vsphere.inventory import find
from offhost.vsphere.session import VSphere
from offhost.vsphere.snapshots import create, remove
from offhost.vsphere.tracking import changed_areas, enable, is_enabled
from offhost.vsphere.values import Disk, Vm
from support.vcenter import DiskSpec, Rule, SimulatedVCenter

pytestmark = pytest.mark.vsim

GRAIN = 64 << 10
SIZE = 8 << 20


@pytest.fixture
async def vm(vcenter: SimulatedVCenter, vsphere: VSphere) -> Vm:
    """A running VM with one disk, not tracked yet."""
    return await find(vsphere, vcenter.create_vm("web", [DiskSpec(SIZE)]))


async def switch_on(vsphere: VSphere, vm: Vm) -> None:
    """With the stun that makes it active."""

    async def stun() -> None:
        await remove(vsphere, vm, await create(vsphere, vm, "in between", quiesce_minutes=None))

    await enable(vsphere, vm, stun)


async def frozen(vsphere: VSphere, vm: Vm) -> tuple[str, Disk]:
    """A snapshot and its disk."""
    snapshot = await create(vsphere, vm, "", quiesce_minutes=None)
    (disk,) = (await snapshot_configuration(vsphere, vm, snapshot)).disks
    return snapshot, disk


async def base_of(vsphere: VSphere, vm: Vm) -> str:
    """The change id of a first backup, whose snapshot is gone."""
    snapshot, disk = await frozen(vsphere, vm)
    await remove(vsphere, vm, snapshot)
    assert disk.change_id is not None
    return disk.change_id


async def changes(vsphere: VSphere, vm: Vm, base: str) -> ExtentMap:
    """What changed since a base, at a snapshot taken now."""
    snapshot, disk = await frozen(vsphere, vm)
    return await changed_areas(vsphere, vm, disk, snapshot=snapshot, base_change_id=base)


async def test_switching_on_makes_it_active_and_leaves_no_snapshot(
    vcenter: SimulatedVCenter, vsphere: VSphere, vm: Vm
) -> None:
    await switch_on(vsphere, vm)
    assert await is_enabled(vsphere, vm)
    assert not vcenter.snapshots(vm.moref)
    assert await base_of(vsphere, vm)


async def test_writes_right_after_switching_on_are_tracked(vcenter: SimulatedVCenter, vsphere: VSphere, vm: Vm) -> None:
    await switch_on(vsphere, vm)
    base = await base_of(vsphere, vm)
    (disk,) = vcenter.disks(vm.moref)
    vcenter.write(vm.moref, disk.key, 3 * GRAIN + 5, b"changed")
    changed = await changes(vsphere, vm, base)
    assert changed == ExtentMap([Extent(3 * GRAIN, 4 * GRAIN)])


async def test_it_is_not_switched_on_over_snapshots(vcenter: SimulatedVCenter, vsphere: VSphere, vm: Vm) -> None:
    vcenter.create_foreign_snapshot(vm.moref)
    with pytest.raises(ChangeTrackingInvalid, match="while there are snapshots"):
        await switch_on(vsphere, vm)
    assert not await is_enabled(vsphere, vm)


async def test_old_virtual_hardware_is_refused_by_its_version(vcenter: SimulatedVCenter, vsphere: VSphere) -> None:
    old = await find(vsphere, vcenter.create_vm("old", [DiskSpec(SIZE)], hardware="vmx-04"))
    with pytest.raises(ChangeTrackingInvalid, match="virtual hardware 4"):
        await switch_on(vsphere, old)
    assert not await is_enabled(vsphere, old)


async def test_every_page_is_asked_for(vcenter: SimulatedVCenter, vsphere: VSphere, vm: Vm) -> None:
    await switch_on(vsphere, vm)
    base = await base_of(vsphere, vm)
    (disk,) = vcenter.disks(vm.moref)
    written = range(0, SIZE // GRAIN, 2)
    for grain in written:
        vcenter.write(vm.moref, disk.key, grain * GRAIN, b"x")
    vcenter.set_areas_per_call(10)
    changed = await changes(vsphere, vm, base)
    assert changed == ExtentMap(Extent(grain * GRAIN, (grain + 1) * GRAIN) for grain in written)
    assert vcenter.calls().methods["QueryChangedDiskAreas"] == 7


async def test_a_base_of_before_a_restart_of_tracking_is_not_even_asked_about(
    vcenter: SimulatedVCenter, vsphere: VSphere, vm: Vm
) -> None:
    await switch_on(vsphere, vm)
    base = await base_of(vsphere, vm)
    vcenter.set_change_tracking(vm.moref, on=False)
    await switch_on(vsphere, vm)
    with pytest.raises(ChangeTrackingInvalid, match="started anew since the base"):
        await changes(vsphere, vm, base)
    assert "QueryChangedDiskAreas" not in vcenter.calls().methods


async def test_tracking_that_is_off_is_not_even_asked(vcenter: SimulatedVCenter, vsphere: VSphere, vm: Vm) -> None:
    with pytest.raises(ChangeTrackingInvalid, match="change tracking is off"):
        await changes(vsphere, vm, "52 aa/1")
    assert "QueryChangedDiskAreas" not in vcenter.calls().methods


@pytest.mark.parametrize("fault", ["FileFault", "InvalidArgument", "NotSupported"])
async def test_a_question_that_fails_is_a_reason_to_read_everything(
    vcenter: SimulatedVCenter, vsphere: VSphere, vm: Vm, fault: str
) -> None:
    await switch_on(vsphere, vm)
    base = await base_of(vsphere, vm)
    vcenter.rules([Rule("QueryChangedDiskAreas", fault=fault)])
    with pytest.raises(ChangeTrackingInvalid, match=fault):
        await changes(vsphere, vm, base)


async def test_a_question_survives_a_broken_connection(vcenter: SimulatedVCenter, vsphere: VSphere, vm: Vm) -> None:
    await switch_on(vsphere, vm)
    base = await base_of(vsphere, vm)
    vcenter.rules([Rule("QueryChangedDiskAreas", mode="drop", count=1)])
    assert not len(await changes(vsphere, vm, base))
