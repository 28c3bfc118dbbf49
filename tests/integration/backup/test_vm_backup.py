"""The rules of backing up one VM, each against the simulated vCenter."""

import asyncio
import threading

import pytest

from offhost.repository.verification.verify import verify
from offhost.snapshot.leftovers import remove_leftovers
from offhost.transport.datastore import DatastoreTransport
from offhost.transport.https import HttpsTransport
from offhost.vsphere.folder import FolderAccess
from offhost.vsphere.values import QuiescePolicy
from support.backed_up_vms import BackedUpVm, Interrupted
from support.held_vms import OWNER, mounted
from support.repositories import noise
from support.vcenter import DiskSpec, Rule

GRAIN = 64 << 10


@pytest.mark.narrow
async def test_the_first_backup_is_full_and_holds_what_the_guest_saw(web: BackedUpVm) -> None:
    report = await web.run()
    assert web.content(report) == web.seen_by_guest()
    (disk,) = report.disks
    assert (disk.mode, disk.reason, disk.transport) == ("full", "the first backup of this disk", "datastore")
    assert disk.host_bytes == 0
    assert web.snapshots() == []
    assert web.vcenter.calls().folder_bytes_served == 0


@pytest.mark.narrow
async def test_the_second_reads_what_changed_and_equals_a_full_read(web: BackedUpVm) -> None:
    await web.run()
    web.write(3 * GRAIN, b"changed" * 1000)
    web.write(6 << 20, noise(3, 100_000))
    incremental = await web.run()
    (disk,) = incremental.disks
    assert disk.mode == "incremental"
    assert disk.changed_bytes is not None
    assert disk.changed_bytes <= disk.read_bytes < disk.changed_bytes + (1 << 20)
    full = await web.run(mode="full")
    assert web.content(incremental) == web.seen_by_guest() == web.content(full)
    assert web.point(incremental).disks[0].map.root == web.point(full).disks[0].map.root
    assert full.disks[0].new_bytes == 0


async def test_more_changed_areas_than_one_answer_holds_are_all_read(web: BackedUpVm) -> None:
    await web.run()
    web.vcenter.set_areas_per_call(3)
    for at in range(0, 100, 3):
        web.write(at * GRAIN, b"x")
    report = await web.run()
    assert report.disks[0].mode == "incremental"
    assert web.content(report) == web.seen_by_guest()


async def test_every_point_stays_what_it_was_when_it_was_taken(web: BackedUpVm) -> None:
    taken = []
    for generation in range(5):
        web.write(generation * 500_000, noise(generation, 200_000))
        taken.append((await web.run(), web.seen_by_guest()))
    for report, seen in taken:
        assert web.content(report) == seen
    damage = verify(web.destination.repository, data=True, progress=lambda *_: None, stop=threading.Event()).damage
    assert damage == []


async def test_what_the_guest_writes_during_the_backup_is_in_the_next_point_not_in_this(web: BackedUpVm) -> None:
    seen = web.seen_by_guest()
    during = Interrupted(mounted(web.vcenter)[0], lambda: web.write(0, b"during the backup"))
    first = await web.run(transports=[during])
    assert web.content(first) == seen
    assert web.content(await web.run()) == web.seen_by_guest() != seen


@pytest.mark.parametrize("keep_uuid", [True, False])
async def test_a_revert_since_the_base_is_a_full_read(web: BackedUpVm, keep_uuid: bool) -> None:
    """Also when the change id goes on under its old UUID, and would be believed."""
    before = web.vcenter.create_foreign_snapshot(web.moref)
    web.write(0, noise(1, GRAIN))
    await web.run()
    web.write(GRAIN, noise(2, GRAIN))
    web.vcenter.revert(web.moref, before, keep_uuid=keep_uuid)
    report = await web.run()
    assert report.disks[0].mode == "full"
    assert web.content(report) == web.seen_by_guest()
    assert web.snapshots() == ["before the update"]


async def test_tracking_switched_off_and_on_by_somebody_is_a_full_read(web: BackedUpVm) -> None:
    await web.run()
    web.vcenter.set_change_tracking(web.moref, on=False)
    web.vcenter.remove_snapshot(web.moref, web.vcenter.create_foreign_snapshot(web.moref))
    web.write(GRAIN, noise(2, GRAIN))
    report = await web.run()
    assert report.disks[0].mode == "full"
    assert web.content(report) == web.seen_by_guest()


async def test_change_tracking_that_fails_is_a_full_read_with_its_reason(web: BackedUpVm) -> None:
    await web.run()
    web.write(GRAIN, noise(2, GRAIN))
    web.vcenter.rules([Rule("QueryChangedDiskAreas", fault="FileFault", fields={"file": "x"})])
    report = await web.run()
    assert report.disks[0].mode == "full"
    assert report.disks[0].reason
    assert web.content(report) == web.seen_by_guest()


async def test_a_foreign_snapshot_below_ours_is_read_through_and_left(web: BackedUpVm) -> None:
    web.vcenter.create_foreign_snapshot(web.moref)
    web.write(0, b"above the foreign snapshot")
    report = await web.run()
    assert web.content(report) == web.seen_by_guest()
    assert web.snapshots() == ["before the update"]


async def test_our_snapshot_removed_while_reading_discards_the_run(web: BackedUpVm) -> None:
    def removed() -> None:
        (ours,) = web.vcenter.snapshots(web.moref)
        web.vcenter.remove_snapshot(web.moref, ours.moref)

    report = await web.run(transports=[Interrupted(mounted(web.vcenter)[0], removed)])
    assert report.problem is not None
    assert report.point is None
    assert web.destination.repository.points.all() == []
    assert web.content(await web.run()) == web.seen_by_guest()


async def test_a_storage_migration_while_reading_discards_the_run(web: BackedUpVm) -> None:
    moved = Interrupted(mounted(web.vcenter)[0], lambda: web.vcenter.migrate(web.moref, "DS2"))
    report = await web.run(transports=[moved])
    assert report.problem is not None
    assert web.destination.repository.points.all() == []
    assert web.snapshots() == []
    assert web.content(await web.run()) == web.seen_by_guest()


async def test_a_session_dropped_while_reading_is_renewed(web: BackedUpVm) -> None:
    report = await web.run(transports=[Interrupted(mounted(web.vcenter)[0], web.vcenter.drop_sessions)])
    assert web.content(report) == web.seen_by_guest()
    assert web.snapshots() == []


@pytest.mark.narrow
async def test_a_cancelled_backup_leaves_neither_snapshot_nor_point(web: BackedUpVm) -> None:
    reading, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        reading.set()
        go_on.wait(10)

    task = asyncio.create_task(web.run(transports=[Interrupted(mounted(web.vcenter)[0], wait)]))
    await asyncio.to_thread(reading.wait, 10)
    assert web.snapshots() == ["offhost backup"]
    task.cancel()
    await asyncio.sleep(0.05)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert web.snapshots() == []
    assert web.destination.repository.points.all() == []


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        (DiskSpec(1 << 20, mode="independent_persistent"), "independent"),
        (DiskSpec(1 << 20, sharing="sharingMultiWriter"), "several writers"),
    ],
)
async def test_a_disk_that_cannot_be_snapshotted_fails_the_vm_by_name(
    web: BackedUpVm, spec: DiskSpec, told: str
) -> None:
    moref = web.vcenter.create_vm("odd", [spec])
    odd = BackedUpVm(web.vcenter, web.vsphere, web.destination, moref)
    report = await odd.run()
    assert report.problem is not None
    assert told in report.problem.message
    assert odd.snapshots() == []
    plan = await odd.planned()
    assert [disk.mode for disk in plan.disks] == ["refused"]


async def test_a_full_datastore_gets_no_snapshot(web: BackedUpVm) -> None:
    web.vcenter.set_free_space("DS1", free_bytes=1 << 30, capacity_bytes=100 << 30)
    report = await web.run(min_free=0.1)
    assert report.problem is not None
    assert report.problem.code == "datastore_low_space"
    assert web.vcenter.calls().methods.get("CreateSnapshotEx_Task", 0) == 0


async def test_a_guest_that_cannot_be_quiesced_fails_or_warns_as_the_job_says(web: BackedUpVm) -> None:
    fault = Rule("CreateSnapshot*", mode="task", fault="ApplicationQuiesceFault", quiesced=True)
    web.vcenter.rules([fault])
    required = await web.run(quiesce=QuiescePolicy("require"))
    assert required.problem is not None
    assert web.snapshots() == []
    tried = await web.run(quiesce=QuiescePolicy("try"))
    assert tried.consistency == "crash"
    assert tried.warnings
    web.vcenter.rules([])
    assert (await web.run(quiesce=QuiescePolicy("require"))).consistency == "filesystem"


async def test_a_plan_tells_what_a_run_would_do_and_touches_nothing(web: BackedUpVm) -> None:
    first = await web.planned()
    assert [(disk.mode, disk.transport) for disk in first.disks] == [("full", "datastore")]
    await web.run()
    before = web.vcenter.calls().methods
    assert [disk.mode for disk in (await web.planned()).disks] == ["incremental"]
    new = {name: count - before.get(name, 0) for name, count in web.vcenter.calls().methods.items()}
    assert [name for name, count in new.items() if count and name.endswith("_Task")] == []


async def test_the_files_and_the_configuration_are_in_the_point(web: BackedUpVm) -> None:
    point = web.point(await web.run())
    source = web.destination.repository.restore_point(point)
    files = {file.name: source.file(file) for file in point.files}
    assert b'displayName = "web"' in files["web.vmx"]
    assert "web.nvram" in files
    assert point.vm_config is not None
    assert point.vm_config["memory_mib"] == 1024


async def test_a_powered_off_vm_is_read_over_https_when_nothing_is_mounted(web: BackedUpVm) -> None:
    web.vcenter.power(web.moref, on=False)
    folder = FolderAccess(web.vsphere)
    order = [DatastoreTransport({}), HttpsTransport(folder)]
    report = await web.run(transports=order)
    (disk,) = report.disks
    assert disk.transport == "https"
    assert "not mounted" in disk.refused[0]
    assert disk.host_bytes >= disk.read_bytes
    assert web.content(report) == web.seen_by_guest()
    web.vcenter.power(web.moref, on=True)
    running = await web.run(transports=order)
    assert running.problem is not None
    assert "locks the disks of a running VM" in running.problem.message
    assert web.snapshots() == []
    await asyncio.to_thread(folder.close)


async def test_a_dead_runs_snapshot_is_removed_and_nobody_elses(web: BackedUpVm) -> None:
    web.vcenter.create_foreign_snapshot(web.moref, "theirs")
    web.vcenter.create_foreign_snapshot(web.moref, "offhost backup", OWNER.description())
    other = OWNER.description().replace(OWNER.installation, "c" * 32)
    web.vcenter.create_foreign_snapshot(web.moref, "another installation's", other)
    assert await remove_leftovers(web.vsphere, OWNER.installation, lambda _: False) == []
    removed = await remove_leftovers(web.vsphere, OWNER.installation, lambda run: run == OWNER.run)
    assert [leftover.problem for leftover in removed] == [None]
    assert web.snapshots() == ["theirs", "another installation's"]
