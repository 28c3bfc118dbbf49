"""A VM's folder is backed up from its files alone; what that amounts to is said; what a file may name is bounded."""

import os
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from offhost.backup.destination import Destination
from offhost.backup.directory import FolderBackup, vm_folder
from offhost.backup.report import VmReport
from offhost.blockio import read_bytes
from offhost.clock import SystemClock
from offhost.diskimage import machine as module
from offhost.errors import DamagedImage, GateClosed, NotFound, UnsupportedImage
from offhost.repository.points.manifest import Manifest
from support import repositories
from support.vmdk_files import COWD_GRAIN, cowd_delta, describe, flat_disk, overlay, random_grains

SIZE = 8 << 20
CONTENT = repositories.noise(5, SIZE)
VMX = """\
displayName = "web01"
vc.uuid = "50 2a 1b 2c 3d 4e 5f 60-71 82 93 a4 b5 c6 d7 e8"
uuid.bios = "42 2a 1b 2c 3d 4e 5f 60-71 82 93 a4 b5 c6 d7 e8"
scsi0:0.fileName = "web01.vmdk"
scsi0:0.present = "TRUE"
"""
VC_UUID, BIOS_UUID = "502a1b2c-3d4e-5f60-7182-93a4b5c6d7e8", "422a1b2c-3d4e-5f60-7182-93a4b5c6d7e8"


BackUp = Callable[..., Awaitable[VmReport]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A VM that nobody runs."""
    path = tmp_path / "datastore" / "web01"
    path.mkdir(parents=True)
    flat_disk(path, "web01", CONTENT)
    (path / "web01.vmx").write_text(VMX)
    (path / "web01.nvram").write_bytes(b"nvram")
    (path / "vmware.log").write_text("log\n")
    return path


@pytest.fixture
def back_up(destination: Destination) -> BackUp:
    """Backs a folder up; `meanwhile` happens once, when the first bytes were read."""

    async def run(path: Path, meanwhile: Callable[[], object] | None = None) -> VmReport:
        waiting = [meanwhile] if meanwhile else []

        def progress(_disk: str, done: int, _total: int) -> None:
            if done and waiting:
                waiting.pop()()

        backup = FolderBackup(
            destination=destination,
            clock=SystemClock(),
            made_by={"job": "web", "installation": "i", "run": "r"},
            progress=progress,
            on_cancelled=lambda _: None,
        )
        return await backup.run(vm_folder(path))

    return run


def only_point(destination: Destination, report: VmReport) -> Manifest:
    assert report.point is not None
    return destination.repository.points.find(report.point)


def disk_of(destination: Destination, report: VmReport) -> bytes:
    point = only_point(destination, report)
    source = destination.repository.restore_point(point).disk()
    return read_bytes(source, 0, source.size_bytes)


async def test_what_nobody_uses_is_offline_with_all_its_small_files(
    folder: Path, back_up: BackUp, destination: Destination
) -> None:
    report = await back_up(folder)
    point = only_point(destination, report)
    assert (report.consistency, report.warnings) == ("offline", ())
    assert (point.vm_id, point.vm_name) == (f"directory/{VC_UUID}", "web01")
    assert {key: point.origin[key] for key in ("kind", "job", "path", "identified_by", "uuid")} == {
        "kind": "directory",
        "job": "web",
        "path": str(folder),
        "identified_by": "vc.uuid",
        "uuid": VC_UUID,
    }
    restored = destination.repository.restore_point(point)
    assert {file.name: restored.file(file) for file in point.files} == {
        "web01.vmx": VMX.encode(),
        "web01.nvram": b"nvram",
        "vmware.log": b"log\n",
    }
    assert disk_of(destination, report) == CONTENT


@pytest.mark.parametrize(
    ("vmx", "identity"),
    [
        (VMX, VC_UUID),
        (VMX.replace("vc.uuid", "x"), BIOS_UUID),
        (VMX.replace("50 2a 1b", "00 00"), BIOS_UUID),
        ("", None),
    ],
)
def test_the_vm_is_known_by_what_vcenter_called_it_then_by_its_bios_then_by_its_place(
    folder: Path, vmx: str, identity: str | None
) -> None:
    (folder / "web01.vmx").write_text(vmx)
    assert vm_folder(folder).id == f"directory/{identity or folder}"


async def test_a_disk_that_looks_new_every_day_costs_only_its_changes(
    folder: Path, back_up: BackUp, destination: Destination
) -> None:
    first = await back_up(folder)
    assert first.disks[0].stored_bytes > SIZE * 0.99
    changed = bytearray(CONTENT)
    changed[3 << 20 : (3 << 20) + 4096] = repositories.noise(6, 4096)
    before = os.stat(folder / "web01-flat.vmdk").st_ino
    (folder / "web01-flat.vmdk").rename(folder / "kept")
    flat_disk(folder, "web01", bytes(changed))
    (folder / "kept").unlink()
    assert os.stat(folder / "web01-flat.vmdk").st_ino != before
    second = await back_up(folder)
    assert second.disks[0].new_bytes <= 256 << 10
    assert second.disks[0].stored_bytes < SIZE // 16
    assert disk_of(destination, second) == bytes(changed)
    assert disk_of(destination, first) == CONTENT


async def test_the_whole_chain_is_read(folder: Path, back_up: BackUp, destination: Destination) -> None:
    flat_disk(folder, "web01", CONTENT, cid="aaaaaaaa")
    grains = random_grains(SIZE, COWD_GRAIN, 2)
    cowd_delta(folder, "web01-000001", SIZE, grains, cid="bbbbbbbb", parent=("aaaaaaaa", "web01.vmdk"))
    (folder / "web01.vmx").write_text(VMX.replace('"web01.vmdk"', '"web01-000001.vmdk"'))
    assert disk_of(destination, await back_up(folder)) == overlay(CONTENT, grains, COWD_GRAIN)


@pytest.mark.parametrize("sign", [".lck-9b2f000000000000", "web01.vmx.lck", "web01-1a2b3c.vswp", "web01-1a2b3c.vmss"])
async def test_a_vm_that_may_run_is_crash_consistent_at_best(folder: Path, back_up: BackUp, sign: str) -> None:
    (folder / sign).write_bytes(b"")
    report = await back_up(folder)
    assert report.consistency == "crash"
    assert sign in report.warnings[0]
    assert "at best" in report.warnings[0]


def write_to(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"the guest writes")


def touch_only(path: Path) -> None:
    """Written to, and its times set back: only the time of the last change of anything tells."""
    before = path.stat()
    write_to(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("happens", [write_to, touch_only])
async def test_what_was_written_to_while_it_was_read_is_torn_and_said_so(
    folder: Path, back_up: BackUp, happens: Callable[[Path], None]
) -> None:
    report = await back_up(folder, lambda: happens(folder / "web01-flat.vmdk"))
    assert report.consistency == "torn"
    assert "web01-flat.vmdk" in report.warnings[0]
    assert "not even crash-consistent" in report.warnings[0]


async def test_a_disk_that_is_replaced_while_it_is_read_makes_no_point(
    folder: Path, back_up: BackUp, destination: Destination
) -> None:
    def replace() -> None:
        shutil.copy(folder / "web01-flat.vmdk", folder / "new")
        (folder / "new").rename(folder / "web01-flat.vmdk")

    with pytest.raises(GateClosed):
        await back_up(folder, replace)
    assert not destination.repository.points.read()[0]


async def test_a_snapshot_that_is_taken_while_it_is_read_makes_no_point(
    folder: Path, back_up: BackUp, destination: Destination
) -> None:
    flat_disk(folder, "web01", CONTENT, cid="aaaaaaaa")

    def snapshot() -> None:
        cowd_delta(folder, "web01-000001", SIZE, {}, cid="bbbbbbbb", parent=("aaaaaaaa", "web01.vmdk"))
        (folder / "web01.vmx").write_text(VMX.replace('"web01.vmdk"', '"web01-000001.vmdk"'))

    with pytest.raises(GateClosed):
        await back_up(folder, snapshot)
    assert not destination.repository.points.read()[0]


async def test_a_folder_that_was_copied_is_told_from_its_original(
    folder: Path, back_up: BackUp, tmp_path: Path
) -> None:
    await back_up(folder)
    shutil.copytree(folder, tmp_path / "copy")
    report = await back_up(tmp_path / "copy")
    assert f"read from {str(folder)!r}" in report.warnings[0]


@pytest.mark.parametrize("reference", ["/etc/shadow", "../secret.vmdk", "link.vmdk"])
@pytest.mark.parametrize("by", ["extent", "parent", "vmx"])
async def test_nothing_outside_of_the_folder_is_ever_read(
    folder: Path, back_up: BackUp, reference: str, by: str
) -> None:
    flat_disk(folder.parent, "secret", CONTENT)
    (folder / "link.vmdk").symlink_to(folder.parent / "secret.vmdk")
    if by == "extent":
        describe(folder / "web01.vmdk", [f'RW {SIZE // 512} VMFS "{reference}"'], create_type="vmfs")
    elif by == "parent":
        cowd_delta(folder, "web01", SIZE, {}, cid="bbbbbbbb", parent=("aaaaaaaa", reference))
    else:
        (folder / "web01.vmx").write_text(VMX.replace("web01.vmdk", reference))
    with pytest.raises((DamagedImage, UnsupportedImage, NotFound)):
        await back_up(folder)


@pytest.mark.parametrize("line", ['encryption.keySafe = "vmware:key/list/x"', 'encryptedVM.guid = "{1}"'])
def test_an_encrypted_vm_is_refused(folder: Path, line: str) -> None:
    (folder / "web01.vmx").write_text(f"{VMX}{line}\n")
    with pytest.raises(UnsupportedImage, match="ciphertext"):
        vm_folder(folder)


async def test_a_file_that_is_too_large_to_be_kept_is_named(
    folder: Path, back_up: BackUp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LIMIT_FILE_BYTES", 1000)
    (folder / "web01.vmem").write_bytes(bytes(1001))
    report = await back_up(folder)
    assert "web01.vmem is not kept" in report.warnings[0]
    assert report.consistency == "offline"


async def test_names_that_no_terminal_should_see_do_no_harm(
    folder: Path, back_up: BackUp, destination: Destination
) -> None:
    (folder / "web01.vmx").write_bytes(VMX.replace('"web01"', '"a\x1b[2Jb"').encode() + b'x = "\xff"\n')
    (folder / os.fsdecode(b"bad\xff.log")).write_bytes(b"x")
    report = await back_up(folder)
    assert report.vm == "a\\x1b[2Jb"
    assert disk_of(destination, report) == CONTENT
