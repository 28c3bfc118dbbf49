"""Which disks make a machine."""

import time
from pathlib import Path

import pytest

from offhost.blockio import read_bytes
from offhost.diskimage import open_disk, open_folder, open_image
from offhost.diskimage.folder import parse_vmx
from offhost.errors import DamagedImage, NotFound, UnsupportedImage
from support.vmdk_files import (
    COWD_GRAIN,
    cowd_delta,
    describe,
    disk_bytes,
    flat_disk,
    overlay,
    qemu_convert,
    random_grains,
    stream_optimized,
)

SIZE = 1 << 20

VMX = """
scsi0.present = "TRUE"
scsi0:0.fileName = "web-000001.vmdk"
scsi0:0.deviceType = "scsi-hardDisk"
scsi0:0.present = "TRUE"
SATA0:1.FILENAME = "data.vmdk"
ide1:0.fileName = "/usr/share/tools.iso"
ide1:0.deviceType = "cdrom-image"
scsi0:2.fileName = "gone.vmdk"
scsi0:2.present = "FALSE"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A VM with a snapshot on its first disk, and a disk that was detached and left lying about."""
    flat_disk(tmp_path, "web", disk_bytes(SIZE, 1), cid="aaaaaaaa")
    grains = random_grains(SIZE, COWD_GRAIN, 2)
    cowd_delta(tmp_path, "web-000001", SIZE, grains, cid="bbbbbbbb", parent=("aaaaaaaa", "web.vmdk"))
    (tmp_path / "raw").write_bytes(disk_bytes(SIZE, 3))
    qemu_convert(tmp_path / "raw", tmp_path / "data.vmdk", "vmdk", "twoGbMaxExtentSparse")
    flat_disk(tmp_path, "old", disk_bytes(SIZE, 4))
    (tmp_path / "web.nvram").write_bytes(b"nvram")
    return tmp_path


def test_with_a_vmx_the_disks_are_those_it_connects_as_they_are_now(folder: Path) -> None:
    (folder / "web.vmx").write_text(VMX)
    top = overlay(disk_bytes(SIZE, 1), random_grains(SIZE, COWD_GRAIN, 2), COWD_GRAIN)
    with open_folder(folder) as machine:
        assert sorted(machine.disks) == ["sata0:1", "scsi0:0"]
        assert machine.side_files == {"web.vmx": VMX.encode(), "web.nvram": b"nvram"}
        contents = {key: read_bytes(disk, 0, disk.size_bytes) for key, disk in machine.disks.items()}
    assert contents == {"scsi0:0": top, "sata0:1": disk_bytes(SIZE, 3)}


@pytest.mark.parametrize("line", ["a" + " " * 200_000 + "x", "a = " + '" ' * 100_000 + "x", "=" * 200_000])
def test_a_hostile_vmx_does_not_take_longer_than_its_length(folder: Path, line: str) -> None:
    (folder / "web.vmx").write_text(f"{line}\n{VMX}")
    began = time.process_time()
    with open_folder(folder) as machine:
        assert sorted(machine.disks) == ["sata0:1", "scsi0:0"]
    assert time.process_time() - began < 5


def test_lines_of_a_vmx_are_settings_whatever_their_spaces_and_quotes() -> None:
    text = b'#a = "1"\n = "2"\nno setting\n Guest.OS="x = y" \nempty=""\nbare = word\nspaced = " in "\n'
    assert parse_vmx(text) == {"guest.os": "x = y", "empty": "", "bare": "word", "spaced": " in "}


def test_without_a_vmx_the_disks_are_those_no_other_stands_on(folder: Path) -> None:
    with open_folder(folder) as machine:
        tops = {key: disk.files[0].name for key, disk in machine.disks.items()}
    assert tops == {"disk0": "data.vmdk", "disk1": "old.vmdk", "disk2": "web-000001.vmdk"}


def test_a_damaged_disk_in_a_folder_is_said_and_not_left_out(folder: Path) -> None:
    (folder / "old-flat.vmdk").write_bytes(b"")
    with pytest.raises(DamagedImage, match="old-flat"):
        open_folder(folder)


def test_what_a_guest_wrote_into_an_extent_hides_no_other_disk(tmp_path: Path) -> None:
    """The first file of a disk in several begins with what the guest put there: here, a disk upon its neighbour."""
    evil = stream_optimized(tmp_path / "evil.vmdk", bytes(SIZE)).read_bytes()
    evil = evil.replace(b"parentCID=ffffffff", b'parentCID=11111111\nparentFileNameHint="victim.vmdk"')
    (tmp_path / "evil.vmdk").unlink()
    (tmp_path / "two-f001.vmdk").write_bytes(evil.ljust(SIZE, b"\0"))
    describe(tmp_path / "two.vmdk", [f'RW {SIZE // 512} FLAT "two-f001.vmdk" 0'], create_type="twoGbMaxExtentFlat")
    flat_disk(tmp_path, "victim", bytes(SIZE))
    with open_folder(tmp_path) as machine:
        assert [disk.files[0].name for disk in machine.disks.values()] == ["two.vmdk", "victim.vmdk"]


def test_a_file_that_belongs_to_no_disk_is_not_left_out_in_silence(folder: Path) -> None:
    (folder / "web-ctk.vmdk").write_bytes(b"change tracking")
    open_folder(folder).close()
    (folder / "old.vmdk").unlink()
    with pytest.raises(UnsupportedImage, match="old-flat"):
        open_folder(folder)


@pytest.mark.parametrize("name", ["web.qcow2", "web.vmx", "WEB.VHDX"])
def test_a_file_of_another_format_is_not_taken_for_a_raw_disk(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(bytes(512))
    with pytest.raises(UnsupportedImage, match="not a disk"):
        open_image(tmp_path / name)


def test_a_vmx_that_names_a_disk_outside_is_refused(folder: Path) -> None:
    (folder / "web.vmx").write_text('scsi0:0.fileName = "/vmfs/volumes/other/secret.vmdk"\n')
    with pytest.raises(DamagedImage, match="secret"):
        open_folder(folder)


def test_a_folder_of_two_machines_is_refused(folder: Path) -> None:
    (folder / "web.vmx").write_text(VMX)
    (folder / "db.vmx").write_text(VMX)
    with pytest.raises(UnsupportedImage, match=r"db\.vmx, web\.vmx"):
        open_folder(folder)


def test_a_folder_without_disks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no disk"):
        open_folder(tmp_path)


def test_one_disk_is_a_machine_with_a_disk0(folder: Path) -> None:
    with open_image(folder / "web.vmdk") as machine:
        assert list(machine.disks) == ["disk0"]
    with open_image(folder) as machine:
        assert len(machine.disks) == 3


def test_the_identity_changes_with_every_file_and_with_nothing_else(folder: Path) -> None:
    def identity() -> str:
        with open_disk(folder / "web-000001.vmdk") as image:
            return image.identity

    first = identity()
    (folder / "web.vmdk").write_text((folder / "web.vmdk").read_text() + 'ddb.toolsVersion = "1"\n')
    assert identity() == first
    base = folder / "web-flat.vmdk"
    base.rename(folder / "kept.vmdk")
    base.write_bytes((folder / "kept.vmdk").read_bytes())
    second = identity()
    assert second != first
    (folder / "web.vmdk").write_text((folder / "web.vmdk").read_text().replace("web-flat", "kept"))
    assert identity() != second
