"""The simulated vCenter keeps the rules of a real one: without these, tests of the client against it prove little."""

from __future__ import annotations

import hashlib
import http.client
import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pyVmomi import vim, vmodl

from offhost.blockio import read_bytes
from offhost.diskimage import open_disk
from support.pyvmomi_client import PlainClient
from support.vcenter import DiskSpec, Rule, SimulatedVCenter, SimulatorError

MIB = 1 << 20
GRAIN = 64 << 10
KEY = 2000
_names = (f"vm{n}" for n in itertools.count())


@pytest.fixture
def client(shared_vcenter: SimulatedVCenter) -> Iterator[PlainClient]:
    with PlainClient(shared_vcenter) as connected:
        yield connected
    shared_vcenter.rules([])


@pytest.fixture
def vm(shared_vcenter: SimulatedVCenter) -> str:
    """A running VM with one disk of 4 MiB."""
    return shared_vcenter.create_vm(next(_names), [DiskSpec(4 * MIB, b"\xaa" * MIB)])


def switch(client: PlainClient, vm: str, on: bool) -> None:
    client.wait(client.vm(vm).ReconfigVM_Task(vim.vm.ConfigSpec(changeTrackingEnabled=on)))


def stun(client: PlainClient, vm: str) -> None:
    client.wait(client.take_snapshot(vm, "stun").RemoveSnapshot_Task(removeChildren=False))


def track(client: PlainClient, vm: str) -> None:
    switch(client, vm, True)
    stun(client, vm)


def files_of(vcenter: SimulatedVCenter, vm: str) -> set[str]:
    return {file.name for file in vcenter.disks(vm)[0].files[0].parent.iterdir()}


# --- change tracking


def test_a_change_id_appears_only_after_a_stun_that_follows_the_switch(client: PlainClient, vm: str) -> None:
    switch(client, vm, True)
    first = client.take_snapshot(vm)
    assert client.change_id(first, KEY) is None
    client.wait(first.RemoveSnapshot_Task(removeChildren=False))
    assert client.change_id(client.take_snapshot(vm), KEY)


def test_changed_areas_are_what_was_written_between_two_snapshots(
    client: PlainClient, shared_vcenter: SimulatedVCenter, vm: str
) -> None:
    track(client, vm)
    shared_vcenter.write(vm, KEY, 0, b"before the first")
    base = client.take_snapshot(vm)
    since = client.change_id(base, KEY)
    assert since
    shared_vcenter.write(vm, KEY, GRAIN * 3 - 1, b"ab")
    shared_vcenter.write(vm, KEY, 4 * MIB - 1, b"z")
    after = client.take_snapshot(vm)
    shared_vcenter.write(vm, KEY, MIB, b"after the second")
    assert client.changed_areas(vm, after, KEY, since) == [(2 * GRAIN, 2 * GRAIN), (4 * MIB - GRAIN, GRAIN)]


def test_what_is_written_while_tracking_is_off_is_in_no_answer(
    client: PlainClient, shared_vcenter: SimulatedVCenter, vm: str
) -> None:
    switch(client, vm, True)
    shared_vcenter.write(vm, KEY, 0, b"switched on, but not active yet")
    stun(client, vm)
    base = client.take_snapshot(vm)
    since = client.change_id(base, KEY)
    assert since
    client.wait(base.RemoveSnapshot_Task(removeChildren=False))
    assert client.changed_areas(vm, client.take_snapshot(vm), KEY, since) == []


def test_switching_off_and_on_gives_another_uuid_and_the_old_id_a_file_fault(client: PlainClient, vm: str) -> None:
    track(client, vm)
    base = client.take_snapshot(vm)
    since = client.change_id(base, KEY)
    assert since
    client.wait(base.RemoveSnapshot_Task(removeChildren=False))
    switch(client, vm, False)
    track(client, vm)
    after = client.take_snapshot(vm)
    now = client.change_id(after, KEY)
    assert now
    assert now.split("/")[0] != since.split("/")[0]
    with pytest.raises(vim.fault.FileFault):
        client.changed_areas(vm, after, KEY, since)


def test_without_tracking_the_question_is_a_file_fault(client: PlainClient, vm: str) -> None:
    snapshot = client.take_snapshot(vm)
    with pytest.raises(vim.fault.FileFault):
        client.changed_areas(vm, snapshot, KEY, "*")


def test_a_start_beyond_the_disk_and_an_unknown_disk_are_invalid_arguments(client: PlainClient, vm: str) -> None:
    track(client, vm)
    snapshot = client.take_snapshot(vm)
    with pytest.raises(vmodl.fault.InvalidArgument):
        client.vm(vm).QueryChangedDiskAreas(snapshot, KEY, 4 * MIB, "*")
    with pytest.raises(vmodl.fault.InvalidArgument):
        client.vm(vm).QueryChangedDiskAreas(snapshot, KEY + 1, 0, "*")


@pytest.mark.slow
def test_a_call_answers_at_most_2000_areas_and_says_how_far_it_came(
    client: PlainClient, shared_vcenter: SimulatedVCenter
) -> None:
    vm = shared_vcenter.create_vm(next(_names), [DiskSpec(4100 * GRAIN)])
    track(client, vm)
    base = client.take_snapshot(vm)
    since = client.change_id(base, KEY)
    assert since
    written = [grain * 2 * GRAIN for grain in range(2050)]
    for offset in written:
        shared_vcenter.write(vm, KEY, offset, b"x")
    after = client.take_snapshot(vm)
    first = client.vm(vm).QueryChangedDiskAreas(after, KEY, 0, since)
    assert len(first.changedArea) == 2000
    assert first.startOffset == 0
    assert first.length == first.changedArea[-1].start + first.changedArea[-1].length < 4100 * GRAIN
    assert client.changed_areas(vm, after, KEY, since) == [(offset, GRAIN) for offset in written]


def test_allocated_areas_are_those_of_the_whole_chain(
    client: PlainClient, shared_vcenter: SimulatedVCenter, vm: str
) -> None:
    track(client, vm)
    client.take_snapshot(vm)
    shared_vcenter.write(vm, KEY, 3 * MIB, b"x")
    assert client.changed_areas(vm, client.take_snapshot(vm), KEY, "*") == [(0, MIB), (3 * MIB, GRAIN)]


# --- snapshots and their disks


def test_guest_writes_never_reach_a_frozen_base(client: PlainClient, shared_vcenter: SimulatedVCenter, vm: str) -> None:
    base = shared_vcenter.disks(vm)[0]
    frozen = hashlib.sha256(base.extent.read_bytes()).digest()
    client.take_snapshot(vm)
    shared_vcenter.write(vm, KEY, 100, b"a write across two sectors" * 40)
    assert hashlib.sha256(base.extent.read_bytes()).digest() == frozen
    assert shared_vcenter.read(vm, KEY, 100, 26) == b"a write across two sectors"
    assert shared_vcenter.read(vm, KEY, 0, 100) == b"\xaa" * 100


@pytest.mark.narrow
def test_a_delta_chain_on_disk_reads_as_its_guest_sees_it(
    client: PlainClient, shared_vcenter: SimulatedVCenter
) -> None:
    rng = random.Random(7)
    content = bytearray(rng.randbytes(MIB) + bytes(4 * MIB))
    vm = shared_vcenter.create_vm(next(_names), [DiskSpec(5 * MIB, bytes(content))])
    states = []
    for level in range(3):
        states.append(bytes(content))
        client.take_snapshot(vm, f"level {level}")
        for _ in range(20):
            data = rng.randbytes(rng.randrange(1, 5000))
            offset = rng.randrange(5 * MIB - len(data))
            content[offset : offset + len(data)] = data
            shared_vcenter.write(vm, KEY, offset, data)
    assert shared_vcenter.read(vm, KEY) == content
    files = shared_vcenter.disks(vm)[0].files
    for file, state in zip(files, [bytes(content), *reversed(states)], strict=True):
        with open_disk(file) as disk:
            assert read_bytes(disk, 0, disk.size_bytes) == state, file.name


def test_a_removed_snapshots_files_go_at_once(client: PlainClient, shared_vcenter: SimulatedVCenter, vm: str) -> None:
    before = files_of(shared_vcenter, vm)
    snapshot = client.take_snapshot(vm)
    shared_vcenter.write(vm, KEY, 5, b"kept")
    assert {f"{name}" for name in files_of(shared_vcenter, vm) - before if "-000001" in name}
    client.wait(snapshot.RemoveSnapshot_Task(removeChildren=False))
    assert files_of(shared_vcenter, vm) == before
    assert shared_vcenter.read(vm, KEY, 4, 6) == b"\xaakept\xaa"


def test_removal_in_mid_chain_folds_that_link_only(
    client: PlainClient, shared_vcenter: SimulatedVCenter, vm: str
) -> None:
    snapshots = []
    for level in range(3):
        snapshots.append(client.take_snapshot(vm, f"level {level}"))
        shared_vcenter.write(vm, KEY, level * 4096, b"level %d" % level)
    top, middle, low, base = shared_vcenter.disks(vm)[0].files
    client.wait(snapshots[1].RemoveSnapshot_Task(removeChildren=False))
    assert shared_vcenter.disks(vm)[0].files == (top, low, base)
    assert not middle.exists()
    assert [one.name for one in shared_vcenter.snapshots(vm)] == ["level 0", "level 2"]
    with open_disk(low) as disk:
        assert read_bytes(disk, 0, 7) + read_bytes(disk, 4096, 7) == b"level 0level 1"
    backing = next(d for d in snapshots[2].config.hardware.device if d.key == KEY).backing
    assert backing.fileName.endswith(low.name)
    assert backing.parent.fileName.endswith(base.name)
    assert [shared_vcenter.read(vm, KEY, n * 4096, 7) for n in range(3)] == [b"level 0", b"level 1", b"level 2"]


def test_remove_children_takes_the_whole_branch(client: PlainClient, shared_vcenter: SimulatedVCenter, vm: str) -> None:
    before = files_of(shared_vcenter, vm)
    first = client.take_snapshot(vm)
    second = client.take_snapshot(vm)
    client.wait(first.RemoveSnapshot_Task(removeChildren=True))
    assert shared_vcenter.snapshots(vm) == ()
    assert files_of(shared_vcenter, vm) == before
    with pytest.raises(vmodl.fault.ManagedObjectNotFound):
        second.RemoveSnapshot_Task(removeChildren=False)


def test_a_stuck_consolidation_leaves_the_deltas_and_says_so(
    client: PlainClient, shared_vcenter: SimulatedVCenter, vm: str
) -> None:
    shared_vcenter.stick_consolidation(vm)
    client.wait(client.take_snapshot(vm).RemoveSnapshot_Task(removeChildren=False))
    assert client.vm(vm).runtime.consolidationNeeded is True
    assert len(shared_vcenter.disks(vm)[0].files) == 2
    client.wait(client.vm(vm).ConsolidateVMDisks_Task())
    assert client.vm(vm).runtime.consolidationNeeded is False
    assert len(shared_vcenter.disks(vm)[0].files) == 1


@pytest.mark.parametrize("keep_uuid", [True, False])
def test_a_revert_restores_the_bytes_and_may_keep_the_tracking(
    client: PlainClient, shared_vcenter: SimulatedVCenter, vm: str, keep_uuid: bool
) -> None:
    track(client, vm)
    target = client.take_snapshot(vm, "target")
    shared_vcenter.write(vm, KEY, 0, b"lost by the revert")
    base = client.take_snapshot(vm, "base")
    since = client.change_id(base, KEY)
    assert since
    shared_vcenter.keep_tracking_over_revert(keep_uuid)
    client.wait(target.RevertToSnapshot_Task())
    shared_vcenter.keep_tracking_over_revert(False)
    assert shared_vcenter.read(vm, KEY, 0, 18) == b"\xaa" * 18
    after = client.take_snapshot(vm, "after")
    now = client.change_id(after, KEY)
    assert now
    assert (now.split("/")[0] == since.split("/")[0]) is keep_uuid
    if keep_uuid:  # the trap: the answer knows nothing of what the revert changed
        assert client.changed_areas(vm, after, KEY, since) == []


def test_a_revert_is_among_the_vms_events(client: PlainClient, shared_vcenter: SimulatedVCenter, vm: str) -> None:
    snapshot = client.take_snapshot(vm)
    client.wait(snapshot.RevertToSnapshot_Task())
    by_entity = vim.event.EventFilterSpec.ByEntity(entity=client.vm(vm), recursion="self")
    asked = vim.event.EventFilterSpec(entity=by_entity, eventTypeId=["TaskEvent"])
    events = client.content.eventManager.QueryEvents(asked)
    assert "vm.Snapshot.revert" in {event.info.descriptionId for event in events}
    late = max(event.createdTime for event in events) + timedelta(seconds=1)
    asked.time = vim.event.EventFilterSpec.ByTime(beginTime=late)
    assert client.content.eventManager.QueryEvents(asked) == []


def test_a_storage_migration_changes_backing_and_datastore(
    client: PlainClient, shared_vcenter: SimulatedVCenter, vm: str
) -> None:
    snapshot = client.take_snapshot(vm)
    shared_vcenter.write(vm, KEY, 0, b"on the way")
    uuid = shared_vcenter.disks(vm)[0].uuid
    there = next(ds for ds in client.content.rootFolder.childEntity[0].datastore if ds.name == "DS2")
    client.wait(client.vm(vm).RelocateVM_Task(vim.vm.RelocateSpec(datastore=there)))
    disk = shared_vcenter.disks(vm)[0]
    assert disk.uuid == uuid
    assert all(file.is_relative_to(shared_vcenter.datastores["DS2"]) for file in disk.files)
    assert shared_vcenter.read(vm, KEY, 0, 10) == b"on the way"
    frozen = next(d for d in snapshot.config.hardware.device if d.key == KEY).backing
    assert frozen.fileName.startswith("[DS2] ")
    assert frozen.datastore.name == "DS2"
    assert client.vm(vm).config.files.vmPathName.startswith("[DS2] ")
    client.wait(snapshot.RemoveSnapshot_Task(removeChildren=False))
    assert shared_vcenter.read(vm, KEY, 0, 10) == b"on the way"


def test_every_disk_has_a_uuid_of_its_own_that_snapshots_keep(
    client: PlainClient, shared_vcenter: SimulatedVCenter
) -> None:
    vm = shared_vcenter.create_vm(next(_names), [DiskSpec(MIB), DiskSpec(MIB)])
    before = [disk.uuid for disk in shared_vcenter.disks(vm)]
    snapshot = client.take_snapshot(vm)
    kept = [d.backing.uuid for d in snapshot.config.hardware.device if d.key in (KEY, KEY + 1)]
    assert before == kept == [disk.uuid for disk in shared_vcenter.disks(vm)]
    assert len(set(before)) == 2


def test_independent_disks_take_no_part_in_a_snapshot(client: PlainClient, shared_vcenter: SimulatedVCenter) -> None:
    vm = shared_vcenter.create_vm(next(_names), [DiskSpec(MIB, mode="independent_persistent"), DiskSpec(MIB)])
    client.take_snapshot(vm)
    assert [len(disk.files) for disk in shared_vcenter.disks(vm)] == [1, 2]


def test_identities_are_set_and_a_vm_made_anew_has_others(
    shared_vcenter: SimulatedVCenter, client: PlainClient
) -> None:
    name = next(_names)
    first = shared_vcenter.create_vm(name, powered_on=False)
    config = client.vm(first).config
    one = (config.instanceUuid, config.uuid)
    shared_vcenter.destroy_vm(first)
    second = client.vm(shared_vcenter.create_vm(name)).config
    assert all(one)
    assert not set(one) & {second.instanceUuid, second.uuid}
    assert client.content.about.instanceUuid
    assert client.vm(shared_vcenter.create_vm(next(_names))).capability.changeTrackingSupported is True


# --- quiescing


def test_a_snapshot_is_quiesced_only_when_tools_run(client: PlainClient, shared_vcenter: SimulatedVCenter) -> None:
    vm = shared_vcenter.create_vm(next(_names), [DiskSpec(MIB)])
    client.take_snapshot(vm, "without", quiesce=True)
    shared_vcenter.set_tools(vm, running=True)
    client.take_snapshot(vm, "with", quiesce=True)
    spec = vim.vm.WindowsQuiesceSpec(timeout=5, vssBackupContext="ctx_auto", vssBackupType=1)
    client.wait(client.vm(vm).CreateSnapshotEx_Task(name="vss", description="", memory=False, quiesceSpec=spec))
    assert [one.quiesced for one in shared_vcenter.snapshots(vm)] == [False, True, True]


def test_quiescing_fails_on_demand_and_the_plain_snapshot_does_not(
    client: PlainClient, shared_vcenter: SimulatedVCenter, vm: str
) -> None:
    shared_vcenter.rules(
        [Rule("CreateSnapshot*", mode="task", fault="ApplicationQuiesceFault", object=vm, quiesced=True)]
    )
    with pytest.raises(vim.fault.ApplicationQuiesceFault):
        client.take_snapshot(vm, quiesce=True)
    client.take_snapshot(vm)


# --- /folder


def test_folder_wants_a_session(client: PlainClient, shared_vcenter: SimulatedVCenter) -> None:
    vm = shared_vcenter.create_vm(next(_names), [DiskSpec(MIB)], powered_on=False)
    path = _on_datastore(shared_vcenter.disks(vm)[0].extent)
    assert client.folder("GET", "DS1", path, logged_in=False)[0] == 401
    assert client.folder("GET", "DS1", path) == (200, bytes(MIB))


def test_folder_serves_ranges_and_counts_what_it_served(client: PlainClient, shared_vcenter: SimulatedVCenter) -> None:
    vm = shared_vcenter.create_vm(next(_names), [DiskSpec(MIB, b"0123456789")], powered_on=False)
    path = _on_datastore(shared_vcenter.disks(vm)[0].extent)
    before = shared_vcenter.calls()
    assert client.folder("GET", "DS1", path, headers={"Range": "bytes=2-5"}) == (206, b"2345")
    assert client.folder("GET", "DS1", path, headers={"Range": f"bytes={MIB}-"})[0] == 416
    after = shared_vcenter.calls()
    assert after.folder_requests - before.folder_requests == 2
    assert 4 <= after.folder_bytes_served - before.folder_bytes_served < 100


def test_folder_refuses_every_extent_of_a_running_vm(
    client: PlainClient, shared_vcenter: SimulatedVCenter, vm: str
) -> None:
    client.take_snapshot(vm)
    live, base = shared_vcenter.disks(vm)[0].files
    directory = base.parent.name
    for extent in (f"{base.stem}-flat.vmdk", f"{live.stem}-delta.vmdk"):
        assert client.folder("GET", "DS1", f"{directory}/{extent}")[0] == 500
        assert client.folder("PUT", "DS1", f"{directory}/{extent}", body=b"x")[0] == 500
    assert client.folder("GET", "DS1", f"{directory}/{base.name}")[0] == 200
    shared_vcenter.power(vm, on=False)
    assert client.folder("GET", "DS1", f"{directory}/{base.stem}-flat.vmdk")[0] == 200


def test_folder_has_nothing_of_a_vsan_datastore(client: PlainClient, shared_vcenter: SimulatedVCenter) -> None:
    name = next(_names)
    vm = shared_vcenter.create_vm(name, [DiskSpec(MIB)], datastore="VSAN1", powered_on=False)
    assert shared_vcenter.disks(vm)[0].extent.exists()
    assert client.folder("GET", "VSAN1", f"{name}/{name}.vmdk")[0] == 404
    assert client.folder("GET", "VSAN1", f"{name}/{name}.vmx")[0] == 404


def test_folder_takes_whole_files_into_directories_that_are_there(
    client: PlainClient, shared_vcenter: SimulatedVCenter
) -> None:
    manager = client.content.fileManager
    datacenter = client.content.rootFolder.childEntity[0]
    assert client.folder("PUT", "DS1", "fresh/a.bin", body=b"hello")[0] == 404
    manager.MakeDirectory("[DS1] fresh", datacenter, False)
    assert client.folder("PUT", "DS1", "fresh/a.bin", body=b"hello")[0] == 201
    assert client.folder("PUT", "DS1", "fresh/a.bin", body=b"x", headers={"Content-Range": "bytes 0-0/5"})[0] == 501
    assert client.folder("GET", "DS1", "fresh/a.bin") == (200, b"hello")
    client.wait(manager.MoveDatastoreFile_Task("[DS1] fresh/a.bin", datacenter, "[DS1] fresh/b.bin", datacenter))
    assert client.folder("DELETE", "DS1", "fresh/b.bin")[0] == 204
    client.wait(manager.DeleteDatastoreFile_Task("[DS1] fresh", datacenter))
    assert not (shared_vcenter.datastores["DS1"] / "fresh").exists()


def test_a_running_vms_files_cannot_be_deleted(client: PlainClient, shared_vcenter: SimulatedVCenter, vm: str) -> None:
    extent = shared_vcenter.disks(vm)[0].extent
    datacenter = client.content.rootFolder.childEntity[0]
    for name in (f"[DS1] {_on_datastore(extent)}", f"[DS1] {extent.parent.name}"):
        with pytest.raises(vim.fault.FileLocked):
            client.wait(client.content.fileManager.DeleteDatastoreFile_Task(name, datacenter))
    assert extent.exists()


def _on_datastore(file: Path) -> str:
    return f"{file.parent.name}/{file.name}"


# --- sessions and faults


def test_a_wrong_password_is_an_invalid_login(client: PlainClient, shared_vcenter: SimulatedVCenter) -> None:
    manager = client.content.sessionManager
    manager.Logout()
    with pytest.raises(vim.fault.InvalidLogin):
        manager.Login(shared_vcenter.user, "wrong")
    with pytest.raises(vim.fault.NotAuthenticated):
        assert client.content.rootFolder.name


@pytest.mark.slow
def test_an_idle_session_expires_and_a_busy_one_does_not(vcenter: SimulatedVCenter) -> None:
    with PlainClient(vcenter) as client:
        vcenter.set_idle_timeout(0.5)
        for _ in range(4):
            time.sleep(0.2)
            client.instance.CurrentTime()
            assert client.content.rootFolder.name
        time.sleep(0.7)
        with pytest.raises(vim.fault.NotAuthenticated):
            assert client.content.rootFolder.name
        assert client.folder("GET", "DS1", "x")[0] == 401


def test_dropped_sessions_can_log_in_again(vcenter: SimulatedVCenter) -> None:
    with PlainClient(vcenter) as client:
        vcenter.drop_sessions()
        with pytest.raises(vim.fault.NotAuthenticated):
            assert client.content.rootFolder.name
        client.content.sessionManager.Login(vcenter.user, vcenter.password)
        assert client.content.rootFolder.name


def test_a_fault_carries_its_fields_and_keeps_to_its_object(
    client: PlainClient, shared_vcenter: SimulatedVCenter, vm: str
) -> None:
    other = shared_vcenter.create_vm(next(_names), [DiskSpec(MIB)])
    wanted = {"privilegeId": "VirtualMachine.State.CreateSnapshot"}
    shared_vcenter.rules([Rule("CreateSnapshot_Task", fault="NoPermission", fields=wanted, object=vm)])
    with pytest.raises(vim.fault.NoPermission) as refused:
        client.take_snapshot(vm)
    assert refused.value.privilegeId == "VirtualMachine.State.CreateSnapshot"
    client.take_snapshot(other)


@pytest.mark.parametrize(
    "rule",
    [Rule("X", mode="sometimes"), Rule("X", fault="NoSuchFault"), Rule("X", fault="NoPermission", fields={"a": 1})],
)
def test_a_rule_that_could_never_act_is_refused(shared_vcenter: SimulatedVCenter, rule: Rule) -> None:
    with pytest.raises(SimulatorError):
        shared_vcenter.rules([rule])


def test_a_rule_for_a_vm_covers_calls_on_its_snapshots_and_counts_them(
    client: PlainClient, shared_vcenter: SimulatedVCenter, vm: str
) -> None:
    snapshot = client.take_snapshot(vm)
    shared_vcenter.rules(
        [Rule("RemoveSnapshot_Task", mode="task", fault="TaskInProgress", object=vm, nth=1, count=1, delay_ms=50)]
    )
    started = time.monotonic()
    with pytest.raises(vim.fault.TaskInProgress):
        client.wait(snapshot.RemoveSnapshot_Task(removeChildren=False))
    assert time.monotonic() - started >= 0.05
    assert shared_vcenter.snapshots(vm)
    client.wait(snapshot.RemoveSnapshot_Task(removeChildren=False))
    assert not shared_vcenter.snapshots(vm)


def test_a_delayed_task_does_its_work_late(client: PlainClient, shared_vcenter: SimulatedVCenter, vm: str) -> None:
    shared_vcenter.rules([Rule("CreateSnapshot_Task", mode="task", delay_ms=100)])
    task = client.vm(vm).CreateSnapshot_Task(name="late", description="", memory=False, quiesce=False)
    assert shared_vcenter.snapshots(vm) == ()
    client.wait(task)
    assert [one.name for one in shared_vcenter.snapshots(vm)] == ["late"]


def test_a_proxys_503_and_a_dropped_connection_hit_the_nth_call_only(
    client: PlainClient, shared_vcenter: SimulatedVCenter, vm: str
) -> None:
    for mode in ("http503", "drop"):
        shared_vcenter.rules([Rule("QueryEvents", mode=mode, nth=2, count=1)])
        client.content.eventManager.QueryEvents(vim.event.EventFilterSpec())
        with pytest.raises((http.client.HTTPException, OSError)):
            client.content.eventManager.QueryEvents(vim.event.EventFilterSpec())
        client.content.eventManager.QueryEvents(vim.event.EventFilterSpec())


# --- machines that a restore makes


def test_a_vm_takes_an_existing_disk_by_its_descriptor_and_refuses_what_is_none(
    client: PlainClient, shared_vcenter: SimulatedVCenter
) -> None:
    donor = shared_vcenter.create_vm(next(_names), [DiskSpec(3 * MIB, b"restored")], powered_on=False)
    disk = shared_vcenter.disks(donor)[0]
    directory = shared_vcenter.datastores["DS1"] / "restored"
    directory.mkdir()
    (directory / "disk.vmdk").write_text(
        "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\n"
        f'createType="vmfs"\nRW {3 * MIB // 512} VMFS "disk-flat.vmdk"\n'
    )
    (directory / "disk-flat.vmdk").write_bytes(disk.extent.read_bytes())
    (directory / "restored.nvram").write_bytes(b"the old nvram")

    vm = client.wait(_create_vm(client, "restored", "[DS1] restored/disk.vmdk"))
    made = shared_vcenter.disks(vm._moId)[0]
    assert made.size_bytes == 3 * MIB
    assert made.uuid not in ("", disk.uuid)
    assert shared_vcenter.read(vm._moId, made.key, 0, 8) == b"restored"
    assert (directory / "restored.nvram").read_bytes() == b"the old nvram"

    with pytest.raises(vim.fault.FileNotFound):
        client.wait(_create_vm(client, "other", "[DS1] restored/none.vmdk"))
    (directory / "short.vmdk").write_text((directory / "disk.vmdk").read_text().replace("disk-flat", "short-flat"))
    (directory / "short-flat.vmdk").write_bytes(b"short")
    with pytest.raises(vim.fault.InvalidDeviceBacking):
        client.wait(_create_vm(client, "other", "[DS1] restored/short.vmdk"))


def test_a_registered_vm_is_what_its_vmx_says(client: PlainClient, shared_vcenter: SimulatedVCenter) -> None:
    name = next(_names)
    vm = shared_vcenter.create_vm(name, [DiskSpec(MIB, b"kept")], powered_on=False, memory_mb=2048)
    disk = shared_vcenter.disks(vm)[0]
    config = client.vm(vm).config
    identity = (config.instanceUuid, config.uuid)
    client.vm(vm).UnregisterVM()
    assert disk.extent.exists()
    datacenter = client.content.rootFolder.childEntity[0]
    pool = datacenter.hostFolder.childEntity[0].resourcePool
    again = client.wait(
        datacenter.vmFolder.RegisterVM_Task(path=f"[DS1] {name}/{name}.vmx", asTemplate=False, pool=pool)
    )
    config = again.config
    assert (config.instanceUuid, config.uuid) == identity
    assert (config.name, config.hardware.memoryMB) == (name, 2048)
    registered = shared_vcenter.disks(again._moId)[0]
    assert (registered.uuid, registered.size_bytes) == (disk.uuid, MIB)


def _create_vm(client: PlainClient, name: str, disk: str) -> Any:
    controller = vim.vm.device.ParaVirtualSCSIController(key=1000, busNumber=0, sharedBus="noSharing")
    backing = vim.vm.device.VirtualDisk.FlatVer2BackingInfo(fileName=disk, diskMode="persistent")
    device = vim.vm.device.VirtualDisk(key=2000, controllerKey=1000, unitNumber=0, backing=backing)
    changes = [vim.vm.device.VirtualDeviceSpec(operation="add", device=one) for one in (controller, device)]
    files = vim.vm.FileInfo(vmPathName=f"[DS1] {name}/{name}.vmx")
    spec = vim.vm.ConfigSpec(name=name, files=files, deviceChange=changes, guestId="otherGuest64")
    datacenter = client.content.rootFolder.childEntity[0]
    pool = datacenter.hostFolder.childEntity[0].resourcePool
    return datacenter.vmFolder.CreateVM_Task(config=spec, pool=pool)


def test_a_clone_has_its_own_disks_and_leaves_the_sources_alone(
    client: PlainClient, shared_vcenter: SimulatedVCenter
) -> None:
    source = shared_vcenter.create_vm(next(_names), [DiskSpec(MIB, b"cloned")])
    before = shared_vcenter.disks(source)
    datacenter = client.content.rootFolder.childEntity[0]
    spec = vim.vm.CloneSpec(location=vim.vm.RelocateSpec(), powerOn=False, template=False)
    clone = client.wait(client.vm(source).CloneVM_Task(folder=datacenter.vmFolder, name=next(_names), spec=spec))
    assert shared_vcenter.disks(source) == before
    copy = shared_vcenter.disks(clone._moId)[0]
    assert copy.uuid != before[0].uuid
    assert copy.extent != before[0].extent
    assert shared_vcenter.read(clone._moId, copy.key, 0, 6) == b"cloned"


# --- the simulator itself


def test_the_simulator_and_its_files_go_when_its_user_is_killed(vcenter_binary: None) -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from support.vcenter import SimulatedVCenter\n"
        "v = SimulatedVCenter()\n"
        "print(v.pid, v.datastores['DS1'], flush=True)\n"
        "sys.stdin.read()\n"
    )
    tests = str(Path(__file__).resolve().parents[2])
    with subprocess.Popen(
        [sys.executable, "-c", script, tests], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as user:
        assert user.stdout is not None
        pid, directory = user.stdout.readline().split()
        assert Path(directory).is_dir()
        user.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and (_alive(int(pid)) or Path(directory).exists()):
        time.sleep(0.02)
    assert not _alive(int(pid))
    assert not Path(directory).parent.exists()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"


def test_a_larger_inventory_is_there_from_the_start(vcenter_binary: None) -> None:
    with SimulatedVCenter(vms=20) as vcenter, PlainClient(vcenter) as client:
        machines = client.content.rootFolder.childEntity[0].vmFolder.childEntity
        assert len(machines) == 20
        moref = machines[0]._moId
        client.take_snapshot(moref)
        disk = vcenter.disks(moref)[0]
        assert disk.uuid
        assert len(disk.files) == 2
