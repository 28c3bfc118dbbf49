"""Disk images that are cut short, corrupt or made to harm: one message names the file, and nothing is stored."""

import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from support.site import BackedUp, Site
from support.vmdk_files import describe, disk_bytes, flat_disk, qemu_convert

SIZE = 1 << 20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A VM's folder beside a secret that is none of its business."""
    (tmp_path / "secret").write_bytes(b"SECRET".ljust(SIZE, b"!"))
    (tmp_path / "vm").mkdir()
    return tmp_path / "vm"


def outside(folder: Path) -> Path:
    return describe(folder / "web.vmdk", [f'RW {SIZE // 512} FLAT "../secret" 0'])


def absolute(folder: Path) -> Path:
    return describe(folder / "web.vmdk", [f'RW {SIZE // 512} VMFS "{folder.parent / "secret"}"'])


def through_a_link(folder: Path) -> Path:
    (folder / "web-flat.vmdk").symlink_to("../secret")
    return describe(folder / "web.vmdk", [f'RW {SIZE // 512} VMFS "web-flat.vmdk"'])


def a_pipe(folder: Path) -> Path:
    os.mkfifo(folder / "web-flat.vmdk")
    return describe(folder / "web.vmdk", [f'RW {SIZE // 512} VMFS "web-flat.vmdk"'])


def smaller_than_its_descriptor_says(folder: Path) -> Path:
    disk = flat_disk(folder, "web", disk_bytes(SIZE, 1))
    os.truncate(folder / "web-flat.vmdk", SIZE - 512)
    return disk


def without_its_extent(folder: Path) -> Path:
    disk = flat_disk(folder, "web", disk_bytes(SIZE, 1))
    (folder / "web-flat.vmdk").unlink()
    return disk


def larger_than_any_disk(folder: Path) -> Path:
    return describe(folder / "web.vmdk", [f'RW {1 << 60} VMFS "web-flat.vmdk"'])


def sparse_and_cut_short(folder: Path) -> Path:
    (folder / "web.raw").write_bytes(disk_bytes(SIZE, 2))
    disk = qemu_convert(folder / "web.raw", folder / "web.vmdk", "vmdk", "monolithicSparse")
    os.truncate(disk, disk.stat().st_size // 2)
    return disk


def sparse_with_a_table_beyond_its_end(folder: Path) -> Path:
    (folder / "web.raw").write_bytes(disk_bytes(SIZE, 2))
    disk = qemu_convert(folder / "web.raw", folder / "web.vmdk", "vmdk", "monolithicSparse")
    content = bytearray(disk.read_bytes())
    (directory_sector,) = struct.unpack_from("<Q", content, 56)  # hosted sparse extent header: gdOffset
    struct.pack_into("<I", content, directory_sector * 512, 0xFFFFFFF0)
    disk.write_bytes(content)
    return disk


def a_descriptor_of_noise(folder: Path) -> Path:
    disk = folder / "web.vmdk"
    disk.write_bytes(b"# Disk DescriptorFile\n" + os.urandom(4096))
    return disk


def its_own_parent(folder: Path) -> Path:
    flat_disk(folder, "web", bytes(SIZE), cid="11111111", parent=("11111111", "web.vmdk"))
    return folder / "web.vmdk"


@pytest.mark.parametrize(
    "make",
    [
        outside,
        absolute,
        through_a_link,
        a_pipe,
        smaller_than_its_descriptor_says,
        without_its_extent,
        larger_than_any_disk,
        sparse_and_cut_short,
        sparse_with_a_table_beyond_its_end,
        a_descriptor_of_noise,
        its_own_parent,
    ],
)
def test_an_image_that_cannot_be_right_is_refused(site: Site, folder: Path, make: Callable[[Path], Path]) -> None:
    disk = make(folder)
    said = site.offhost("--repo", "main", "backup", "image", disk, "--name", "web")
    assert said.code == 1, said
    error, _ = said.told_once()
    assert "web" in error
    assert "SECRET" not in said.out + said.err
    assert site.offhost("--repo", "main", "points", "list", "--json").out == "[]\n"
    assert site.offhost("--repo", "main", "repo", "verify").code == 0


def test_a_disk_on_a_datastore_that_is_smaller_than_its_descriptor_says(backed_up: BackedUp) -> None:
    site = backed_up.site
    whole = site.extent.read_bytes()
    os.truncate(site.extent, len(whole) - 4096)
    said = site.run_job()
    assert said.code == 1
    error, _ = said.told_once()
    assert site.extent.name in error
    site.extent.write_bytes(whole)
    backed_up.assert_unharmed()
