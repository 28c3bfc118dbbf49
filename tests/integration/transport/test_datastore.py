"""Disks on a mounted datastore."""

import os
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from offhost.blockio import read_bytes
from offhost.errors import DamagedImage, GateClosed, ReadFailed, TransportUnavailable
from offhost.transport.contract import open_first
from offhost.transport.datastore import DatastoreTransport, Mount
from offhost.transport.uncached import DirectFileReadAt
from offhost.vsphere.configuration import snapshot_configuration
from offhost.vsphere.session import VSphere
from support.disks import VM, disk
from support.sessions import found
from support.vcenter import DiskSpec, SimulatedVCenter
from support.vmdk_files import COWD_GRAIN, cowd_delta, disk_bytes, flat_disk, overlay, random_grains

SIZE = (5 << 20) + 512
FLAT = disk("[DS1] web/web.vmdk", SIZE)
GRAINS = random_grains(SIZE, COWD_GRAIN, 2)
DELTA = disk(
    "[DS1] web/web-000001.vmdk", SIZE, kind="sparse", chain=("[DS1] web/web-000001.vmdk", "[DS1] base/web.vmdk")
)


@pytest.fixture
def mount(tmp_path: Path) -> Path:
    """A datastore with a disk, and a linked clone whose base lies in another folder; VMs write to deltas upon both."""
    (tmp_path / "web").mkdir()
    (tmp_path / "base").mkdir()
    flat_disk(tmp_path / "web", "web", disk_bytes(SIZE, 1))
    flat_disk(tmp_path / "base", "web", disk_bytes(SIZE, 1), cid="aaaaaaaa")
    cowd_delta(tmp_path / "web", "web-000001", SIZE, GRAINS, cid="bbbbbbbb", parent=("aaaaaaaa", "../base/web.vmdk"))
    cowd_delta(tmp_path / "web", "web-000002", SIZE, {}, cid="11111111", parent=("11111111", "web.vmdk"))
    cowd_delta(tmp_path / "web", "web-000003", SIZE, {}, cid="cccccccc", parent=("bbbbbbbb", "web-000001.vmdk"))
    return tmp_path


@pytest.fixture(params=[False, True], ids=["cached", "direct"])
def transport(mount: Path, request: pytest.FixtureRequest) -> DatastoreTransport:
    return DatastoreTransport({"DS1": Mount(mount, direct_io=request.param)})


def test_a_flat_disk_is_read_without_any_host(transport: DatastoreTransport) -> None:
    assert transport.refusal(VM, FLAT) is None
    opened = transport.open(VM, FLAT)
    try:
        assert read_bytes(opened.source, 0, SIZE) == disk_bytes(SIZE, 1)
        assert read_bytes(opened.source, 4097, 70_000) == disk_bytes(SIZE, 1)[4097:74_097]
        assert opened.host_bytes() == 0
        assert opened.transport == "datastore"
    finally:
        opened.close()
        opened.close()


def test_a_chain_is_read_with_its_base_in_another_folder(transport: DatastoreTransport) -> None:
    opened = transport.open(VM, DELTA)
    try:
        assert read_bytes(opened.source, 0, SIZE) == overlay(disk_bytes(SIZE, 1), GRAINS, COWD_GRAIN)
    finally:
        opened.close()


def test_a_base_that_is_replaced_changes_the_fingerprint(transport: DatastoreTransport, mount: Path) -> None:
    opened = transport.open(VM, DELTA)
    try:
        before = opened.fingerprint()
        assert opened.fingerprint() == before
        base = mount / "base" / "web-flat.vmdk"
        base.rename(mount / "base" / "old")
        base.write_bytes(disk_bytes(SIZE, 1))
        assert opened.fingerprint() != before
        base.unlink()
        with pytest.raises(GateClosed, match="Hard disk 1"):
            opened.fingerprint()
    finally:
        opened.close()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"encrypted": True}, "encrypted"),
        ({"kind": "rdm_virtual"}, "rdm_virtual"),
        ({"file": "[DS2] web/web.vmdk"}, "DS2"),
        ({"chain": ("[DS1] web/web.vmdk", "[DS3] base.vmdk")}, "DS3"),
        ({"file": "[DS1] gone/web.vmdk", "chain": ()}, "was the VM moved, or is the datastore not mounted"),
    ],
)
def test_a_disk_that_cannot_be_read_is_refused_with_the_reason(
    mount: Path, changes: dict[str, Any], reason: str
) -> None:
    described = disk("[DS1] web/web.vmdk", SIZE)
    changed = replace(described, backing=replace(described.backing, **changes))
    refusal = DatastoreTransport({"DS1": Mount(mount)}).refusal(VM, changed)
    assert refusal is not None
    assert reason in refusal


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_refused_with_the_mend(mount: Path) -> None:
    (mount / "web" / "web.vmdk").chmod(0)
    refusal = DatastoreTransport({"DS1": Mount(mount)}).refusal(VM, FLAT)
    assert refusal is not None
    assert "no_root_squash" in refusal


def test_a_disk_smaller_than_vsphere_says_is_damaged(transport: DatastoreTransport) -> None:
    with pytest.raises(DamagedImage, match="vSphere says"):
        transport.open(VM, disk(FLAT.backing.file, SIZE + 512))


def test_a_file_shorter_than_its_descriptor_is_damaged(transport: DatastoreTransport, mount: Path) -> None:
    os.truncate(mount / "web" / "web-flat.vmdk", SIZE - 512)
    with pytest.raises(DamagedImage, match="holds"):
        transport.open(VM, FLAT)


def test_a_missing_extent_leaves_the_disk_to_the_next_transport(transport: DatastoreTransport, mount: Path) -> None:
    (mount / "web" / "web-flat.vmdk").unlink()
    with pytest.raises(TransportUnavailable, match="no such file"):
        transport.open(VM, FLAT)


def test_another_disk_of_the_same_name_is_not_read(transport: DatastoreTransport, mount: Path) -> None:
    """What is mounted is not the datastore that the configuration says it is."""
    descriptor = mount / "web" / "web.vmdk"
    descriptor.write_text(descriptor.read_text() + 'ddb.uuid = "60 00 C2 93 7c 9b 9f 39-ac a5 00 11 22 33 44 55"\n')
    right = disk(FLAT.backing.file, SIZE, uuid="6000C293-7c9b-9f39-aca5-001122334455")
    transport.open(VM, right).close()
    with pytest.raises(TransportUnavailable, match="vSphere means"):
        transport.open(VM, disk(FLAT.backing.file, SIZE, uuid="6000C293-7c9b-9f39-aca5-001122334466"))
    with pytest.raises(TransportUnavailable, match="chain"):
        transport.open(VM, disk(DELTA.backing.file, SIZE, kind="sparse", chain=(DELTA.backing.file, "[DS1] x.vmdk")))


def test_a_descriptor_that_names_a_file_outside_of_the_datastore_is_refused(mount: Path) -> None:
    (mount.parent / "secret").write_bytes(bytes(SIZE))
    for file in ("../../secret", "/etc/passwd"):
        text = (mount / "web" / "web.vmdk").read_text().replace("web-flat.vmdk", file)
        (mount / "web" / "evil.vmdk").write_text(text)
        with pytest.raises(DamagedImage, match="refused"):
            DatastoreTransport({"DS1": Mount(mount)}).open(VM, disk("[DS1] web/evil.vmdk", SIZE))


@pytest.mark.parametrize("file", ["[DS1] ../secret.vmdk", "[DS1] /etc/secret.vmdk", "[DS1] web/../../secret.vmdk"])
def test_a_path_that_leaves_the_datastore_is_refused(mount: Path, file: str) -> None:
    flat_disk(mount.parent, "secret", bytes(SIZE))
    with pytest.raises((DamagedImage, TransportUnavailable)):
        DatastoreTransport({"DS1": Mount(mount)}).open(VM, disk(file, SIZE))


@pytest.mark.parametrize("file", ["../secret", "web/../../secret", "/etc/passwd", ""])
def test_a_path_that_leaves_the_datastore_is_neither_looked_for_nor_fetched(mount: Path, file: str) -> None:
    (mount.parent / "secret").write_bytes(b"another tenant's")
    mounted = DatastoreTransport({"DS1": Mount(mount)})
    with pytest.raises(TransportUnavailable, match="does not lie beneath"):
        mounted.fetch(f"[DS1] {file}", 1 << 20)
    refusal = mounted.refusal(VM, disk(f"[DS1] {file}", SIZE))
    assert refusal is not None
    assert "does not lie beneath" in refusal


def test_a_direct_read_beyond_a_file_that_became_shorter_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(disk_bytes(SIZE, 3))
    source = DirectFileReadAt(os.open(path, os.O_RDONLY | os.O_CLOEXEC), str(path))
    try:
        assert read_bytes(source, SIZE - 700, 700) == disk_bytes(SIZE, 3)[-700:]
        os.truncate(path, SIZE - 8192)
        with pytest.raises(ReadFailed):
            read_bytes(source, 0, SIZE)
        with pytest.raises(ValueError, match="leaves"):
            read_bytes(source, SIZE, 1)
    finally:
        source.close()


@pytest.fixture
def without_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("offhost.transport.present.NAME_LAG_S", 0.0)


@pytest.mark.usefixtures("without_patience")
def test_a_disk_upon_which_its_vm_does_not_write_is_of_another_moment(mount: Path) -> None:
    mounted = DatastoreTransport({"DS1": Mount(mount)})
    (mount / "web" / "web-000002.vmdk").unlink()
    with pytest.raises(TransportUnavailable, match="another moment of the datastore") as raised:
        mounted.open(VM, FLAT)
    assert "replica" in str(raised.value.hint)
    mounted.open(replace(VM, template=True), FLAT).close()


def test_a_delta_that_the_mount_shows_late_is_waited_for(mount: Path) -> None:
    delta = mount / "web" / "web-000002.vmdk"
    hidden = delta.rename(delta.with_suffix(".hidden"))
    late = threading.Timer(0.4, hidden.rename, [delta])
    late.start()
    DatastoreTransport({"DS1": Mount(mount)}).open(VM, FLAT).close()
    late.join()


@pytest.mark.usefixtures("without_patience")
async def test_a_copy_of_the_datastore_under_its_name_is_not_read(
    vcenter: SimulatedVCenter, vsphere: VSphere, tmp_path: Path
) -> None:
    moref = vcenter.create_vm("web", [DiskSpec(4 << 20, disk_bytes(4 << 20, 5))])
    shutil.copytree(vcenter.datastores["DS1"], tmp_path / "replica")
    vcenter.write(moref, vcenter.disks(moref)[0].key, 0, b"since then")
    vm, snapshot = await found(vsphere, moref), vcenter.create_foreign_snapshot(moref, "ours")
    frozen = (await snapshot_configuration(vsphere, vm, snapshot)).disks[0]
    DatastoreTransport({"DS1": Mount(vcenter.datastores["DS1"])}).open(vm, frozen).close()
    with pytest.raises(TransportUnavailable, match="another moment of the datastore"):
        DatastoreTransport({"DS1": Mount(tmp_path / "replica")}).open(vm, frozen)


async def test_the_chain_of_a_running_vm_with_snapshots_is_read_as_its_guest_sees_it(
    vcenter: SimulatedVCenter, vsphere: VSphere
) -> None:
    moref = vcenter.create_vm("web", [DiskSpec(4 << 20, disk_bytes(4 << 20, 5))], datastore="NFS1")
    key = vcenter.disks(moref)[0].key
    for number in range(3):
        vcenter.create_foreign_snapshot(moref, f"snapshot {number}")
        vcenter.write(moref, key, 123 * 512 << number, disk_bytes(300 * 512, number))
    snapshot = vcenter.create_foreign_snapshot(moref, "ours")
    described = (await snapshot_configuration(vsphere, await found(vsphere, moref), snapshot)).disks[0]
    assert len(described.backing.chain) == 4
    mounted = DatastoreTransport({name: Mount(path) for name, path in vcenter.datastores.items()})
    opened = open_first([mounted], VM, described)
    try:
        assert read_bytes(opened.source, 0, 4 << 20) == vcenter.read(moref, key)
    finally:
        opened.close()
