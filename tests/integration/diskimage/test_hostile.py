"""Images made to harm: read right, or refused with one clear error; nothing outside of the root is ever opened."""

import contextlib
import os
import random
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from offhost.blockio import FileReadAt, read_bytes
from offhost.diskimage import open_disk
from offhost.errors import DamagedImage, DiskImageError, NotFound, ReadFailed, UnsupportedImage
from support.vmdk_files import (
    COWD_GRAIN,
    SESPARSE_GRAIN,
    cowd_delta,
    describe,
    disk_bytes,
    flat_disk,
    qemu_convert,
    random_grains,
    sesparse_delta,
    stream_optimized,
)

SIZE = 1 << 20
SECRET = b"SECRET".ljust(SIZE, b"!")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A VM's folder beside a file that is none of its business."""
    (tmp_path / "secret").write_bytes(SECRET)
    (tmp_path / "vm").mkdir()
    return tmp_path / "vm"


def flat_line(file: str, size_bytes: int = SIZE) -> list[str]:
    return [f'RW {size_bytes // 512} VMFS "{file}"']


@pytest.mark.parametrize("kind", ["VMFS", "FLAT", "SPARSE"])
@pytest.mark.parametrize("file", ["../secret", "/etc/passwd", "a/../../secret", "link", "folder/secret", "fifo", "sub"])
def test_a_descriptor_that_names_a_file_outside_is_refused(folder: Path, kind: str, file: str) -> None:
    (folder / "link").symlink_to("../secret")
    (folder / "folder").symlink_to("..")
    (folder / "sub").mkdir()
    os.mkfifo(folder / "fifo")
    path = describe(folder / "web.vmdk", [f'RW {SIZE // 512} {kind} "{file}"'])
    with pytest.raises(DamagedImage):
        open_disk(path)


def test_a_parent_outside_of_the_root_is_refused_and_beneath_it_is_read(folder: Path) -> None:
    (folder.parent / "base").mkdir()
    content = disk_bytes(SIZE, 1)
    flat_disk(folder.parent / "base", "base", content, cid="aaaaaaaa")
    top = cowd_delta(folder, "web", SIZE, {}, cid="bbbbbbbb", parent=("aaaaaaaa", "../base/base.vmdk"))
    with pytest.raises(DamagedImage, match="outside"):
        open_disk(top)
    with open_disk(top, folder.parent) as image:
        assert read_bytes(image, 0, SIZE) == content


def test_a_parent_by_an_absolute_name_is_refused(folder: Path) -> None:
    flat_disk(folder, "base", bytes(SIZE), cid="aaaaaaaa")
    top = cowd_delta(folder, "web", SIZE, {}, cid="bbbbbbbb", parent=("aaaaaaaa", str(folder / "base.vmdk")))
    with pytest.raises(UnsupportedImage, match="absolute"):
        open_disk(top)


def test_a_path_that_leaves_the_root_is_refused(folder: Path) -> None:
    flat_disk(folder.parent, "web", SECRET)
    with pytest.raises(DamagedImage):
        open_disk(folder / ".." / "web.vmdk", folder)
    with pytest.raises(DamagedImage):
        open_disk(folder.parent / "web.vmdk", folder)


def test_what_a_guest_wrote_into_its_disk_is_never_taken_for_a_descriptor(folder: Path) -> None:
    """CVE-2022-47951 and its kin: a raw disk whose first sectors name the host's files."""
    evil = describe(folder / "text", flat_line("../secret")).read_bytes().ljust(SIZE, b"\0")
    (folder / "disk.raw").write_bytes(evil)
    path = flat_disk(folder, "web", evil)
    for name in (path, folder / "web-flat.vmdk", folder / "disk.raw"):
        with open_disk(name) as image:
            assert read_bytes(image, 0, SIZE) == evil
    delta = cowd_delta(folder, "delta", SIZE, {}, cid="bbbbbbbb", parent=("11111111", "web-flat.vmdk"))
    with pytest.raises(UnsupportedImage):
        open_disk(delta)


def test_a_chain_that_comes_back_to_itself_is_refused(folder: Path) -> None:
    cowd_delta(folder, "one", SIZE, {}, cid="aaaaaaaa", parent=("bbbbbbbb", "two.vmdk"))
    two = cowd_delta(folder, "two", SIZE, {}, cid="bbbbbbbb", parent=("aaaaaaaa", "one.vmdk"))
    with pytest.raises(DamagedImage, match="comes back to itself"):
        open_disk(two)


def test_a_chain_without_an_end_is_refused_and_its_files_are_closed(folder: Path) -> None:
    top = flat_disk(folder, "d0", bytes(SIZE), cid="00000000")
    for depth in range(1, 70):
        cid, parent = f"{depth:08x}", (f"{depth - 1:08x}", f"d{depth - 1}.vmdk")
        top = cowd_delta(folder, f"d{depth}", SIZE, {}, cid=cid, parent=parent)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(DamagedImage, match="64 levels"):
        open_disk(top)
    assert len(os.listdir("/proc/self/fd")) == before
    with open_disk(folder / "d32.vmdk") as image:
        assert not any(read_bytes(image, 0, SIZE))


def test_a_base_that_was_written_to_after_the_delta_is_refused(folder: Path) -> None:
    flat_disk(folder, "web", bytes(SIZE), cid="aaaaaaab")
    top = cowd_delta(folder, "web-000001", SIZE, {}, cid="bbbbbbbb", parent=("aaaaaaaa", "web.vmdk"))
    with pytest.raises(DamagedImage, match="content id"):
        open_disk(top)


def test_a_base_of_another_size_is_refused(folder: Path) -> None:
    flat_disk(folder, "web", bytes(SIZE // 2), cid="aaaaaaaa")
    top = cowd_delta(folder, "web-000001", SIZE, {}, cid="bbbbbbbb", parent=("aaaaaaaa", "web.vmdk"))
    with pytest.raises(DamagedImage, match="bytes"):
        open_disk(top)


def test_a_flat_file_shorter_than_its_descriptor_says_is_refused(folder: Path) -> None:
    path = flat_disk(folder, "web", bytes(SIZE))
    os.truncate(folder / "web-flat.vmdk", SIZE - 512)
    with pytest.raises(DamagedImage, match="holds"):
        open_disk(path)


def test_a_file_that_becomes_shorter_while_it_is_read_is_an_error_and_not_zeros(folder: Path) -> None:
    path = flat_disk(folder, "web", SECRET)
    with open_disk(path) as image:
        os.truncate(folder / "web-flat.vmdk", 512)
        with pytest.raises(ReadFailed):
            read_bytes(image, 0, SIZE)


def test_what_is_not_there_is_said_so(folder: Path) -> None:
    with pytest.raises(NotFound):
        open_disk(folder / "web.vmdk")
    describe(folder / "web.vmdk", flat_line("web-flat.vmdk"))
    with pytest.raises(DiskImageError, match=r"web-flat\.vmdk: there is no such file"):
        open_disk(folder / "web.vmdk")


def test_an_extent_opened_by_itself_says_what_to_open_instead(folder: Path) -> None:
    flat_disk(folder, "web", bytes(SIZE), cid="aaaaaaaa")
    cowd_delta(folder, "web-000001", SIZE, {}, cid="bbbbbbbb", parent=("aaaaaaaa", "web.vmdk"))
    with pytest.raises(UnsupportedImage, match="an extent of a disk") as raised:
        open_disk(folder / "web-000001-delta.vmdk")
    assert raised.value.hint is not None
    (folder / "unknown.vmdk").write_bytes(b"whatever")
    with pytest.raises(UnsupportedImage):
        open_disk(folder / "unknown.vmdk")


def test_an_empty_image_is_refused(folder: Path) -> None:
    (folder / "disk.raw").touch()
    with pytest.raises(DamagedImage, match="empty"):
        open_disk(folder / "disk.raw")


@pytest.mark.parametrize(
    "grain",
    [
        zlib.compress(bytes(1 << 25), 9),
        zlib.compress(bytes(65537)),
        zlib.compress(bytes(100)),
        zlib.compress(SECRET[:65536])[:-1],
        b"not a stream",
    ],
    ids=["bomb", "too long", "too short", "cut off", "noise"],
)
def test_a_grain_that_does_not_inflate_to_a_grain_is_refused(folder: Path, grain: bytes) -> None:
    path = stream_optimized(folder / "disk.vmdk", SECRET, {3: grain})
    with open_disk(path) as image:
        assert read_bytes(image, 0, 3 * 65536) == SECRET[: 3 * 65536]
        with pytest.raises(DamagedImage, match="grain 3"):
            read_bytes(image, 0, SIZE)


def make_hosted(folder: Path, subformat: str) -> Path:
    (folder / "disk.raw").write_bytes(disk_bytes(SIZE, 2))
    return qemu_convert(folder / "disk.raw", folder / "disk.vmdk", "vmdk", subformat)


def make_cowd(folder: Path) -> Path:
    flat_disk(folder, "web", disk_bytes(SIZE, 3), cid="aaaaaaaa")
    grains = random_grains(SIZE, COWD_GRAIN, 4)
    cowd_delta(folder, "web-000001", SIZE, grains, cid="bbbbbbbb", parent=("aaaaaaaa", "web.vmdk"))
    return folder / "web-000001-delta.vmdk"


def make_sesparse(folder: Path) -> Path:
    flat_disk(folder, "web", disk_bytes(SIZE, 3), cid="aaaaaaaa")
    grains = random_grains(SIZE, SESPARSE_GRAIN, 4, zeros=True)
    sesparse_delta(folder, "web-000001", SIZE, grains, cid="bbbbbbbb", parent=("aaaaaaaa", "web.vmdk"))
    return folder / "web-000001-sesparse.vmdk"


MAKERS: dict[str, Callable[[Path], Path]] = {
    "monolithicSparse": lambda folder: make_hosted(folder, "monolithicSparse"),
    "streamOptimized": lambda folder: make_hosted(folder, "streamOptimized"),
    "cowd": make_cowd,
    "sesparse": make_sesparse,
}


def top_of(extent: Path) -> Path:
    return extent.with_name(extent.name.replace("-delta", "").replace("-sesparse", ""))


def read_whole(path: Path) -> bytes | None:
    """The disk, or None where it is refused; anything else that is raised fails the test."""
    try:
        with open_disk(path) as image:
            image.allocated()
            return read_bytes(image, 0, min(image.size_bytes, 4 * SIZE))
    except (DiskImageError, ReadFailed):
        return None


@pytest.fixture(scope="module", params=sorted(MAKERS))
def image(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """An extent to be damaged, and its pristine bytes."""
    extent = MAKERS[request.param](tmp_path_factory.mktemp("fuzz"))
    return extent, extent.read_bytes()


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_bytes_in_headers_and_tables_end_in_a_disk_or_an_error(
    image: tuple[Path, bytes], data: st.DataObject
) -> None:
    extent, pristine = image
    changed = bytearray(pristine)
    region = data.draw(st.sampled_from([80, 512, 4096, len(pristine)]))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, min(region, len(pristine)) - 1))
        patch = data.draw(st.sampled_from([b"\0", b"\xff", b"\xff" * 8, b"\x01", b"\0" * 8, b"\x7f", b"\x80" * 4]))
        changed[at : at + len(patch)] = patch
    extent.write_bytes(changed[: len(pristine)])
    read_whole(top_of(extent))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_truncated_image_is_an_error_or_right(image: tuple[Path, bytes], data: st.DataObject) -> None:
    extent, pristine = image
    extent.write_bytes(pristine)
    right = read_whole(top_of(extent))
    assert right is not None
    extent.write_bytes(pristine[: data.draw(st.integers(0, len(pristine) - 1))])
    found = read_whole(top_of(extent))
    assert found is None or found == right


def test_no_damage_to_a_descriptor_opens_a_file_outside_of_the_root(folder: Path) -> None:
    make_cowd(folder)
    top = folder / "web-000001.vmdk"
    pristine = top.read_bytes()
    opened: set[Path] = set()

    def noting(fd: int, name: str) -> FileReadAt:
        opened.add(Path(f"/proc/self/fd/{fd}").readlink())
        return FileReadAt(fd, name)

    rng = random.Random(5)
    names = [b"../secret", b"/etc/passwd", b"....//secret", b"./../secret", b"web\0x", b"..", b"/", b"web.vmdk", b"x"]
    for _ in range(300):
        top.write_bytes(
            pristine.replace(rng.choice([b"web-000001-delta.vmdk", b"web.vmdk", b"VMFSSPARSE"]), rng.choice(names))
        )
        with contextlib.suppress(DiskImageError), open_disk(top, reader=noting) as image:
            assert b"SECRET" not in read_bytes(image, 0, image.size_bytes)
    assert opened
    assert all(path.is_relative_to(folder.resolve()) for path in opened)


def test_a_block_device_is_read_where_an_operator_names_it() -> None:
    if os.geteuid() != 0:
        pytest.skip("loop devices need root")
    image = Path("/var/tmp") / f"offhost-test-{os.getpid()}.img"
    image.write_bytes(SECRET)
    try:
        made = subprocess.run(["losetup", "-f", "--show", str(image)], capture_output=True, text=True, check=False)
        if made.returncode:
            pytest.skip(f"no loop device: {made.stderr.strip()}")
        try:
            with open_disk(Path(made.stdout.strip())) as disk:
                assert read_bytes(disk, 0, SIZE) == SECRET
        finally:
            subprocess.run(["losetup", "-d", made.stdout.strip()], check=True)
    finally:
        image.unlink()
