"""Which deltas stand on a disk."""

import os
from pathlib import Path, PurePosixPath

import pytest

from offhost.blockio import FileReadAt
from offhost.diskimage import has_delta, open_disk
from offhost.errors import DiskImageError
from support.vmdk_files import cowd_delta, flat_disk

SIZE = 1 << 20


def stands_on(root: Path, name: str) -> bool:
    with open_disk(root / name, root) as disk:
        return has_delta(disk.levels[0], root, reader=FileReadAt)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "web").mkdir()
    flat_disk(tmp_path / "web", "web", bytes(SIZE), cid="aaaaaaaa")
    return tmp_path / "web"


def test_a_delta_upon_a_disk_is_found_wherever_the_root_is(folder: Path) -> None:
    assert not stands_on(folder.parent, "web/web.vmdk")
    cowd_delta(folder, "web-000001", SIZE, {}, cid="bbbbbbbb", parent=("aaaaaaaa", "web.vmdk"))
    assert stands_on(folder.parent, "web/web.vmdk")
    assert stands_on(folder, "web.vmdk")
    assert not stands_on(folder, "web-000001.vmdk")


@pytest.mark.parametrize(
    "parent",
    [("aaaaaaab", "web.vmdk"), ("aaaaaaaa", "other.vmdk"), ("aaaaaaaa", "../web.vmdk"), ("aaaaaaaa", "/web/web.vmdk")],
)
def test_a_delta_upon_another_disk_or_other_content_does_not_count(folder: Path, parent: tuple[str, str]) -> None:
    cowd_delta(folder, "web-000001", SIZE, {}, cid="bbbbbbbb", parent=parent)
    assert not stands_on(folder.parent, "web/web.vmdk")


def test_what_else_lies_in_the_folder_does_no_harm(folder: Path) -> None:
    (folder / "a.vmdk").write_bytes(b"\0" * 100)
    (folder / "b.vmdk").write_text("# Disk DescriptorFile\nnonsense\n")
    (folder / "c.vmdk").mkdir()
    (folder / "d.vmdk").symlink_to("/dev/zero")
    (folder / "e.vmdk").write_text("# Disk DescriptorFile\n" * 10_000)
    os.mkfifo(folder / "f.vmdk")
    assert not stands_on(folder, "web.vmdk")
    cowd_delta(folder, "web-000001", SIZE, {}, cid="bbbbbbbb", parent=("aaaaaaaa", "web.vmdk"))
    assert stands_on(folder, "web.vmdk")


def test_a_folder_that_is_gone_is_an_error(folder: Path) -> None:
    with open_disk(folder / "web.vmdk", folder.parent) as disk:
        folder.rename(folder.parent / "moved")
        assert disk.levels[0].name == PurePosixPath("web/web.vmdk")
        with pytest.raises(DiskImageError, match="no such file"):
            has_delta(disk.levels[0], folder.parent, reader=FileReadAt)
