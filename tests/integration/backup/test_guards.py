"""The guards around a snapshot: room before it and while it is held, its age and size, and what is left to others."""

from datetime import timedelta

import pytest

from offhost.backup.destination import Destination
from offhost.backup.vm import last_growth
from offhost.snapshot.growth import SnapshotLimits
from offhost.vsphere.session import VSphere
from support.backed_up_vms import BackedUpVm, Interrupted
from support.held_vms import mounted
from support.repositories import noise
from support.vcenter import DiskSpec, Rule, SimulatedVCenter

MIB = 1 << 20


def busy(web: BackedUpVm, size: int) -> Interrupted:
    """The guest writes while its disk is read."""
    return Interrupted(mounted(web.vcenter)[0], lambda: web.write(0, noise(99, size)))


async def test_what_a_snapshot_grew_to_is_kept_with_the_point_and_wanted_free_three_times(web: BackedUpVm) -> None:
    first = await web.run(transports=[busy(web, 2 * MIB)])
    grown = web.point(first).origin["snapshot_bytes"]
    assert 2 * MIB <= grown < 4 * MIB

    web.vcenter.set_free_space("DS1", free_bytes=3 * grown - 1, capacity_bytes=100 * MIB)
    refused = await web.run()
    assert refused.problem is not None
    assert refused.problem.code == "datastore_low_space"
    assert "the snapshot of the last backup grew to" in refused.problem.message
    assert web.snapshots() == []

    web.vcenter.set_free_space("DS1", free_bytes=3 * grown, capacity_bytes=100 * MIB)
    assert (await web.run()).problem is None


async def test_one_busy_night_does_not_refuse_all_later_ones(web: BackedUpVm) -> None:
    point = web.point(await web.run(transports=[busy(web, 2 * MIB)]))
    grown = point.origin["snapshot_bytes"]
    assert last_growth(point, point.time + timedelta(hours=23)) == grown
    assert last_growth(point, point.time + timedelta(days=3)) == grown // 8
    assert last_growth(point, point.time - timedelta(days=3)) == grown, "a clock that was wrong"


async def test_a_snapshot_that_grows_beyond_its_share_is_told(web: BackedUpVm) -> None:
    report = await web.run(transports=[busy(web, 4 * MIB)], snapshot=SnapshotLimits(0.0, max_size=0.25))
    assert report.problem is None
    assert [one for one in report.warnings if "its snapshot has grown to" in one and "over 25% of the disks" in one]


async def test_a_snapshot_that_is_held_too_long_is_told_once(web: BackedUpVm) -> None:
    limits = SnapshotLimits(0.0, max_age=timedelta(0), look_every_s=0.01)
    report = await web.run(snapshot=limits)
    assert report.problem is None
    assert len([one for one in report.warnings if "has been held for longer than 0 hours" in one]) == 1


@pytest.mark.parametrize(("may", "left"), [(False, True), (True, False)])
async def test_consolidation_is_done_by_choice_only(web: BackedUpVm, may: bool, left: bool) -> None:
    web.vcenter.set(web.moref, consolidation_needed=True)
    web.vcenter.calls(reset=True)
    report = await web.run(consolidate=may)
    assert report.problem is None
    assert any("need consolidation" in one for one in report.warnings) is left
    assert ("ConsolidateVMDisks_Task" in web.vcenter.calls().methods) is may


async def test_a_consolidation_that_fails_is_a_warning(web: BackedUpVm) -> None:
    web.vcenter.set(web.moref, consolidation_needed=True)
    web.vcenter.rules([Rule("ConsolidateVMDisks_Task", fault="FileLocked", fields={"file": "web.vmdk"})])
    report = await web.run(consolidate=True)
    assert report.problem is None
    assert any("consolidation" in one and "failed" in one for one in report.warnings)


async def test_a_vm_with_a_virtual_tpm_is_backed_up_and_an_encrypted_disk_is_refused_by_name(
    vcenter: SimulatedVCenter, vsphere: VSphere, destination: Destination
) -> None:
    moref = vcenter.create_vm("vault", [DiskSpec(MIB, noise(1, MIB)), DiskSpec(MIB)], tools_running=True)
    vault = BackedUpVm(vcenter, vsphere, destination, moref)
    vcenter.set_encrypted(moref)
    report = await vault.run()
    assert vault.content(report) == vault.seen_by_guest()
    assert (vault.point(report).vm_config or {})["encryption_key"] == {"key": "key-1", "provider": "kms"}

    vcenter.set_encrypted(moref, disk=vcenter.disks(moref)[1].key)
    refused = await vault.run()
    assert refused.problem is not None
    assert "Hard disk 2" in refused.problem.message or "disk-" in refused.problem.message
    assert "take the encryption policy off the disk" in refused.problem.message
    assert vault.snapshots() == []


async def test_a_vm_that_another_proxy_is_backing_up_is_left_to_it(web: BackedUpVm) -> None:
    other = f"offhost backup: installation {'c' * 32} run {'b' * 32}. Removed when the backup ends."
    snapshot = web.vcenter.create_foreign_snapshot(web.moref, "offhost backup", other)
    refused = await web.run()
    assert refused.problem is not None
    assert refused.problem.code == "conflict"
    assert "another installation of offhost" in refused.problem.message
    assert web.snapshots() == ["offhost backup"], "nothing of the other one is touched"
    web.vcenter.remove_snapshot(web.moref, snapshot)
    assert (await web.run()).problem is None
