"""Every format reads as the bytes that went into it; qemu-img is the second opinion."""

import random
import subprocess
import threading
from pathlib import Path

import pytest

from offhost.blockio import read_bytes
from offhost.diskimage import DiskImage, open_disk
from support.vmdk_files import (
    COWD_GRAIN,
    SESPARSE_GRAIN,
    cowd_delta,
    disk_bytes,
    flat_disk,
    overlay,
    qemu_bytes,
    qemu_convert,
    random_grains,
    sesparse_delta,
    stream_optimized,
)

SIZE = 21 * (1 << 20) + 512 * 3


def whole(image: DiskImage) -> bytes:
    return read_bytes(image, 0, image.size_bytes)


def check_reads_as(image: DiskImage, content: bytes) -> None:
    """The whole, windows of any alignment, and nothing but zeros outside of what is said to be allocated."""
    assert image.size_bytes == len(content)
    assert whole(image) == content
    rng = random.Random(1)
    for _ in range(100):
        start = rng.randrange(len(content))
        length = min(rng.choice([1, 512, 5000, 200_000]), len(content) - start)
        assert read_bytes(image, start, length) == content[start : start + length]
    at = 0
    for extent in [*image.allocated()]:
        assert not any(content[at : extent.start])
        at = extent.end
    assert not any(content[at:])


@pytest.mark.parametrize(
    "subformat", ["monolithicFlat", "twoGbMaxExtentFlat", "monolithicSparse", "twoGbMaxExtentSparse", "streamOptimized"]
)
def test_a_disk_of_each_hosted_format_reads_as_what_went_in(tmp_path: Path, subformat: str) -> None:
    content = disk_bytes(SIZE, seed=3)
    (tmp_path / "disk.raw").write_bytes(content)
    path = qemu_convert(tmp_path / "disk.raw", tmp_path / "disk.vmdk", "vmdk", subformat)
    with open_disk(path) as image:
        assert image.format == subformat
        check_reads_as(image, content)


@pytest.mark.slow
def test_a_stream_whose_directory_lies_at_its_end_reads_as_what_went_in(tmp_path: Path) -> None:
    """As ESXi exports disks; qemu-img reads such streams, and writes others."""
    content = disk_bytes(SIZE, seed=14)
    path = stream_optimized(tmp_path / "disk.vmdk", content)
    assert qemu_bytes(path, tmp_path) == content
    with open_disk(path) as image:
        check_reads_as(image, content)


@pytest.mark.parametrize("subformat", ["twoGbMaxExtentFlat", "twoGbMaxExtentSparse"])
def test_a_disk_in_several_files_reads_across_their_border(tmp_path: Path, subformat: str) -> None:
    border, data = 2 << 30, random.Random(7).randbytes(4 << 20)
    with (tmp_path / "disk.raw").open("wb") as raw:
        raw.seek(border - (2 << 20))
        raw.write(data)
        raw.truncate(border + (64 << 20))
    path = qemu_convert(tmp_path / "disk.raw", tmp_path / "disk.vmdk", "vmdk", subformat)
    with open_disk(path) as image:
        assert len(image.files) == 3
        assert read_bytes(image, border - (2 << 20), 4 << 20) == data
        assert not any(read_bytes(image, border + (2 << 20), 1 << 20))


def test_a_raw_image_reads_as_it_is(tmp_path: Path) -> None:
    content = disk_bytes(3 << 20, seed=4)
    (tmp_path / "disk.img").write_bytes(content)
    with open_disk(tmp_path / "disk.img") as image:
        assert image.format == "raw"
        check_reads_as(image, content)


@pytest.mark.slow
def test_vmfs_sparse_deltas_upon_a_flat_base_read_as_their_top(tmp_path: Path) -> None:
    base = disk_bytes(SIZE, seed=5)
    first, second = (random_grains(SIZE, COWD_GRAIN, seed) for seed in (6, 7))
    flat_disk(tmp_path, "web", base, cid="aaaaaaaa")
    cowd_delta(tmp_path, "web-000001", SIZE, first, cid="bbbbbbbb", parent=("aaaaaaaa", "web.vmdk"))
    top = cowd_delta(tmp_path, "web-000002", SIZE, second, cid="cccccccc", parent=("bbbbbbbb", "web-000001.vmdk"))
    content = overlay(overlay(base, first, COWD_GRAIN), second, COWD_GRAIN)
    assert qemu_bytes(top, tmp_path) == content
    with open_disk(top) as image:
        check_reads_as(image, content)
        assert [level.name.name for level in image.levels] == ["web-000002.vmdk", "web-000001.vmdk", "web.vmdk"]
        assert len(image.files) == 6


def test_sesparse_deltas_read_as_their_top_and_trimmed_grains_as_zeros(tmp_path: Path) -> None:
    base = disk_bytes(SIZE, seed=8)
    first, second = (random_grains(SIZE, SESPARSE_GRAIN, seed, zeros=True) for seed in (9, 10))
    flat_disk(tmp_path, "web", base, cid="aaaaaaaa")
    sesparse_delta(tmp_path, "web-000001", SIZE, first, cid="bbbbbbbb", parent=("aaaaaaaa", "web.vmdk"))
    top = sesparse_delta(tmp_path, "web-000002", SIZE, second, cid="cccccccc", parent=("bbbbbbbb", "web-000001.vmdk"))
    content = overlay(overlay(base, first, SESPARSE_GRAIN), second, SESPARSE_GRAIN)
    assert qemu_bytes(top, tmp_path) == content
    with open_disk(top) as image:
        check_reads_as(image, content)


def test_a_hosted_delta_reads_through_to_its_base(tmp_path: Path) -> None:
    content = disk_bytes(SIZE, seed=11)
    (tmp_path / "disk.raw").write_bytes(content)
    qemu_convert(tmp_path / "disk.raw", tmp_path / "base.vmdk", "vmdk", "monolithicSparse")
    top = tmp_path / "top.vmdk"
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "vmdk", "-b", "base.vmdk", "-F", "vmdk", str(top)], check=True, cwd=tmp_path
    )
    subprocess.run(["qemu-io", "-c", "write -P 0xa5 1M 3M", str(top)], check=True, capture_output=True)
    expected = content[: 1 << 20] + b"\xa5" * (3 << 20) + content[4 << 20 :]
    with open_disk(top) as image:
        check_reads_as(image, expected)


def test_many_threads_read_one_image_at_once(tmp_path: Path) -> None:
    base = disk_bytes(SIZE, seed=12)
    grains = random_grains(SIZE, COWD_GRAIN, 13)
    flat_disk(tmp_path, "web", base, cid="aaaaaaaa")
    top = cowd_delta(tmp_path, "web-000001", SIZE, grains, cid="bbbbbbbb", parent=("aaaaaaaa", "web.vmdk"))
    content = overlay(base, grains, COWD_GRAIN)
    wrong: list[int] = []

    def read_all(image: DiskImage, seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(50):
            start = rng.randrange(SIZE - 100_000)
            if read_bytes(image, start, 100_000) != content[start : start + 100_000]:
                wrong.append(start)

    with open_disk(top) as image:
        threads = [threading.Thread(target=read_all, args=(image, seed)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong
