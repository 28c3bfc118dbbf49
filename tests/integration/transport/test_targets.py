"""Restored disks on a mounted datastore and through `/folder`."""

import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from offhost.aio import in_thread
from offhost.blockio import FileReadAt, ReadAt, read_bytes
from offhost.chunking.workers import SpanWorkers
from offhost.diskimage import flat_descriptor, open_disk
from offhost.errors import Conflict, NotFound, ReadFailed, TransportError, UsageError
from offhost.extents import Extent, ExtentMap
from offhost.transport.copying import copy_out
from offhost.transport.targets import DatastoreTarget, HttpsTarget
from offhost.vsphere.folder import FolderAccess
from offhost.vsphere.registration import make_directory
from offhost.vsphere.session import VSphere
from support.vcenter import SimulatedVCenter
from support.vmdk_files import disk_bytes

SIZE = 38 << 20
DATA = disk_bytes(3 << 20, 1)


@pytest.fixture
def source(tmp_path: Path) -> Iterator[ReadAt]:
    """A disk of several spans, most of it a hole."""
    path = tmp_path / "source.raw"
    with path.open("wb") as file:
        file.write(DATA)
        file.seek(33 << 20)
        file.write(DATA)
        file.truncate(SIZE)
    disk = FileReadAt.open(path)
    yield disk
    disk.close()


@pytest.fixture(scope="module")
def workers() -> Iterator[SpanWorkers]:
    with SpanWorkers(2) as workers:
        yield workers


def nothing(_count: int) -> None:
    pass


def test_a_disk_is_written_sparse_and_reads_as_a_vmdk(tmp_path: Path, source: ReadAt, workers: SpanWorkers) -> None:
    (tmp_path / "ds" / "web").mkdir(parents=True)
    target = DatastoreTarget(tmp_path / "ds", "web", workers)
    done: list[int] = []
    target.write_disk("web.vmdk", flat_descriptor("web.vmdk", SIZE), source, done.append)
    target.put_file("web.nvram", b"nvram")
    assert sum(done) == SIZE
    with open_disk(tmp_path / "ds" / "web" / "web.vmdk") as image:
        assert read_bytes(image, 0, SIZE) == read_bytes(source, 0, SIZE)
    assert (tmp_path / "ds" / "web" / "web-flat.vmdk").stat().st_blocks * 512 < 8 << 20
    back = target.read_back("web.vmdk", SIZE)
    assert read_bytes(back, 33 << 20, len(DATA)) == DATA
    back.close()


def test_a_folder_that_vsphere_made_may_appear_late(tmp_path: Path, workers: SpanWorkers) -> None:
    target = DatastoreTarget(tmp_path, "web", workers)
    late = threading.Timer(0.4, (tmp_path / "web").mkdir)
    late.start()
    target.check()
    late.join()


def test_a_mount_that_does_not_show_the_new_folder_is_not_written_to(
    tmp_path: Path, workers: SpanWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("offhost.transport.present.NAME_LAG_S", 0.0)
    with pytest.raises(TransportError, match="not the new, empty directory"):
        DatastoreTarget(tmp_path, "web", workers).check()
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "web.vmx").touch()
    with pytest.raises(TransportError, match="not the new, empty directory") as raised:
        DatastoreTarget(tmp_path, "web", workers).check()
    assert "replica" in str(raised.value.hint)


def test_a_file_that_is_there_is_not_overwritten(tmp_path: Path, source: ReadAt, workers: SpanWorkers) -> None:
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "web-flat.vmdk").write_bytes(b"precious")
    target = DatastoreTarget(tmp_path, "web", workers)
    with pytest.raises(Conflict, match="web-flat"):
        target.write_disk("web.vmdk", flat_descriptor("web.vmdk", SIZE), source, nothing)
    assert (tmp_path / "web" / "web-flat.vmdk").read_bytes() == b"precious"


def test_a_link_in_the_place_of_the_folder_is_not_followed(tmp_path: Path, workers: SpanWorkers) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "web").symlink_to("elsewhere")
    with pytest.raises(TransportError, match="web"):
        DatastoreTarget(tmp_path, "web", workers).check()


@pytest.mark.parametrize("name", ["../web", "/web", "a/b", "", "..", "a\nb"])
def test_a_folder_elsewhere_is_refused(tmp_path: Path, workers: SpanWorkers, name: str) -> None:
    with pytest.raises(UsageError):
        DatastoreTarget(tmp_path, name, workers)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_datastore_that_is_full_is_said(tmp_path: Path, source: ReadAt, workers: SpanWorkers) -> None:
    mount = tmp_path / "ds"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(mount)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        (mount / "web").mkdir()
        target = DatastoreTarget(mount, "web", workers)
        with pytest.raises(TransportError, match="No space left") as raised:
            target.write_disk("web.vmdk", flat_descriptor("web.vmdk", SIZE), source, nothing)
        assert "full" in str(raised.value.hint)
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def test_a_datastore_that_is_not_mounted_is_said(tmp_path: Path, workers: SpanWorkers) -> None:
    with pytest.raises(TransportError, match="No such file") as raised:
        DatastoreTarget(tmp_path / "gone", "web", workers).put_file("x", b"x")
    assert "mounted" in str(raised.value.hint)


def test_the_first_error_ends_the_copy(source: ReadAt, workers: SpanWorkers) -> None:
    class Failing:
        size_bytes = SIZE

        def read_into(self, offset: int, buffer: memoryview) -> None:
            raise ReadFailed("gone")

        def allocated(self) -> ExtentMap:
            return ExtentMap([Extent(0, SIZE)])

        def close(self) -> None:
            pass

    with pytest.raises(ReadFailed):
        copy_out(Failing(), _Nowhere(), workers, nothing)


def test_progress_that_raises_ends_the_copy(source: ReadAt, workers: SpanWorkers) -> None:
    def enough(_count: int) -> None:
        raise ReadFailed("cancelled")

    with pytest.raises(ReadFailed, match="cancelled"):
        copy_out(source, _Nowhere(), workers, enough)


class _Nowhere:
    size_bytes = SIZE

    def write_at(self, offset: int, data: bytes | memoryview) -> None:
        pass

    def write_zeros(self, offset: int, length: int) -> None:
        pass

    def sync(self) -> None:
        pass

    def close(self) -> None:
        pass


class FilesInMemory:
    """A `/folder` whose files are bytes; the vCenter's own is held against the transport in test_https."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def _file(self, path: str) -> bytes:
        if path not in self.files:
            raise NotFound(path)
        return self.files[path]

    def file_size(self, path: str) -> int:
        return len(self._file(path))

    def fetch_range(self, path: str, start: int, length: int, into: memoryview) -> None:
        into[:] = self._file(path)[start : start + length]

    def download(self, path: str, limit_bytes: int) -> bytes:
        return self._file(path)

    def upload(self, path: str, size_bytes: int, chunks: Iterator[bytes]) -> None:
        self.files[path] = b""
        for chunk in chunks:
            self.files[path] += chunk
        assert len(self.files[path]) == size_bytes


def test_a_disk_is_uploaded_and_read_back_and_no_file_is_overwritten(source: ReadAt) -> None:
    access = FilesInMemory()
    access.files["[DS1] web/other"] = b"other"
    target = HttpsTarget(access, "[DS1] web")
    done: list[int] = []
    target.write_disk("web.vmdk", flat_descriptor("web.vmdk", SIZE), source, done.append)
    target.put_file("empty", b"")
    assert sum(done) == SIZE
    assert sorted(access.files) == [
        "[DS1] web/empty",
        "[DS1] web/other",
        "[DS1] web/web-flat.vmdk",
        "[DS1] web/web.vmdk",
    ]
    assert read_bytes(target.read_back("web.vmdk", SIZE), 0, SIZE) == read_bytes(source, 0, SIZE)
    with pytest.raises(Conflict):
        target.put_file("other", b"")
    assert access.files["[DS1] web/other"] == b"other"


async def test_a_disk_is_uploaded_to_a_vcenter(
    vcenter: SimulatedVCenter, vsphere: VSphere, folder: FolderAccess, source: ReadAt
) -> None:
    await make_directory(vsphere, "[DS1] restored")
    target = HttpsTarget(folder, "[DS1] restored")
    await in_thread(target.write_disk, "web.vmdk", flat_descriptor("web.vmdk", SIZE), source, nothing)
    with open_disk(vcenter.datastores["DS1"] / "restored" / "web.vmdk") as image:
        assert read_bytes(image, 0, SIZE) == read_bytes(source, 0, SIZE)
    back = target.read_back("web.vmdk", SIZE)
    assert await in_thread(read_bytes, back, 33 << 20, len(DATA)) == DATA
