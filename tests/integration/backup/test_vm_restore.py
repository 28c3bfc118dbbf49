"""The way back of a VM: what it makes, and that nothing is left of one that ends early."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from offhost.chunking.workers import SpanWorkers
from offhost.errors import Conflict, SessionLost, TransportError, UsageError
from offhost.restore.vm import VmRestore
from offhost.transport.datastore import Mount
from offhost.vsphere.folder import FolderAccess
from offhost.vsphere.inventory import vms
from offhost.vsphere.registration import create_vm
from support.backed_up_vms import BackedUpVm
from support.vcenter import Rule

UNFIT = ["", "..", ".web", "a/b", "a\\b", 'we"b', "w[eb]", "50%", "web ", "a\nb", "x" * 81, "\N{SNOWMAN}" * 70]


@asynccontextmanager
async def way_back(web: BackedUpVm, *, is_mounted: bool) -> AsyncIterator[VmRestore]:
    folder = FolderAccess(web.vsphere)
    mounts = {name: Mount(path) for name, path in web.vcenter.datastores.items()} if is_mounted else {}
    with SpanWorkers(2) as workers:
        yield VmRestore(web.vsphere, folder, mounts, workers, lambda *_: None)
    await asyncio.to_thread(folder.close)


@pytest.mark.parametrize("is_mounted", [True, False])
async def test_the_new_vm_has_the_points_disks_and_is_powered_off(web: BackedUpVm, is_mounted: bool) -> None:
    report = await web.run()
    seen = web.seen_by_guest()
    web.write(0, b"later")
    with web.destination.repository.reading(web.point(report)) as point:
        async with way_back(web, is_mounted=is_mounted) as restore:
            restored = await restore.run(point, new_name="web-back")
    again = BackedUpVm(web.vcenter, web.vsphere, web.destination, restored.vm.moref)
    assert again.seen_by_guest() == seen
    assert restored.vm.power == "off"
    assert restored.transport == ("datastore" if is_mounted else "https")
    assert (restored.host_bytes == 0) == is_mounted
    assert restored.vm.id != report.vm_id


@pytest.mark.parametrize("is_mounted", [True, False])
async def test_a_restore_that_fails_leaves_nothing(web: BackedUpVm, is_mounted: bool) -> None:
    report = await web.run()
    web.vcenter.rules([Rule("CreateVM_Task", mode="task", fault="InsufficientResourcesFault")])
    with web.destination.repository.reading(web.point(report)) as point:
        async with way_back(web, is_mounted=is_mounted) as restore:
            with pytest.raises(Exception, match=r"(?i)resource"):
                await restore.run(point, new_name="web-back")
    assert [vm.name for vm in await vms(web.vsphere)] == ["web"]
    assert not (web.vcenter.datastores["DS1"] / "web-back").exists()


@pytest.mark.parametrize("is_mounted", [True, False])
async def test_a_restore_that_is_cut_short_after_the_vm_was_made_leaves_nothing_and_can_be_repeated(
    web: BackedUpVm, is_mounted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def cut_short(*given: Any, **named: Any) -> None:
        await create_vm(*given, **named)
        raise asyncio.CancelledError

    report = await web.run()
    with web.destination.repository.reading(web.point(report)) as point:
        async with way_back(web, is_mounted=is_mounted) as restore:
            with monkeypatch.context() as patch:
                patch.setattr("offhost.restore.vm.create_vm", cut_short)
                with pytest.raises(asyncio.CancelledError):
                    await restore.run(point, new_name="web-back")
            assert [vm.name for vm in await vms(web.vsphere)] == ["web"]
            assert not (web.vcenter.datastores["DS1"] / "web-back").exists()
            assert (await restore.run(point, new_name="web-back")).vm.name == "web-back"


async def test_a_vm_that_stays_registered_keeps_its_files(web: BackedUpVm, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken_off(*given: Any, **named: Any) -> None:
        await create_vm(*given, **named)
        web.vcenter.rules([Rule("UnregisterVM", fault="TaskInProgress")])
        raise SessionLost("broken off")

    report = await web.run()
    monkeypatch.setattr("offhost.restore.vm.create_vm", broken_off)
    with web.destination.repository.reading(web.point(report)) as point:
        async with way_back(web, is_mounted=True) as restore:
            with pytest.raises(SessionLost):
                await restore.run(point, new_name="web-back")
    assert "web-back" in [vm.name for vm in await vms(web.vsphere)]
    assert (web.vcenter.datastores["DS1"] / "web-back" / "web-back-flat.vmdk").exists()


async def test_a_directory_that_was_there_is_neither_used_nor_removed(web: BackedUpVm) -> None:
    report = await web.run()
    theirs = web.vcenter.datastores["DS1"] / "web-back"
    theirs.mkdir()
    (theirs / "precious").touch()
    with web.destination.repository.reading(web.point(report)) as point:
        async with way_back(web, is_mounted=True) as restore:
            with pytest.raises(Conflict):
                await restore.run(point, new_name="web-back")
    assert [path.name for path in theirs.iterdir()] == ["precious"]


async def test_a_restore_onto_another_datastores_mount_fails_and_leaves_nothing(
    web: BackedUpVm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("offhost.transport.present.NAME_LAG_S", 0.0)
    (tmp_path / "elsewhere").mkdir()
    report = await web.run()
    with web.destination.repository.reading(web.point(report)) as point:
        async with way_back(web, is_mounted=True) as restore:
            elsewhere = replace(restore, mounts={"DS1": Mount(tmp_path / "elsewhere")})
            with pytest.raises(TransportError, match="not the new, empty directory"):
                await elsewhere.run(point, new_name="web-back")
    assert os.listdir(tmp_path / "elsewhere") == []
    assert not (web.vcenter.datastores["DS1"] / "web-back").exists()


async def test_a_name_that_files_cannot_have_is_refused_before_anything_is_made(web: BackedUpVm) -> None:
    report = await web.run()
    before = web.vcenter.calls().methods
    with web.destination.repository.reading(web.point(report)) as point:
        async with way_back(web, is_mounted=True) as restore:
            for name in UNFIT:
                with pytest.raises(UsageError, match="cannot be called"):
                    await restore.run(point, new_name=name)
    assert web.vcenter.calls().methods == before


async def test_a_name_that_is_taken_is_refused_before_anything_is_written(web: BackedUpVm) -> None:
    report = await web.run()
    with web.destination.repository.reading(web.point(report)) as point:
        async with way_back(web, is_mounted=True) as restore:
            with pytest.raises(Exception, match="there is a VM web already"):
                await restore.run(point, new_name="web")
