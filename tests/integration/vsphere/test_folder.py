"""Files on datastores through /folder: exact ranges, bounds, renewal of the log-in, names that need quoting."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPResponse
from typing import Any, TypeVar

import pytest

from offhost.errors import NotFound, PermissionDenied, ReadFailed, VSphereError
from offhost.vsphere.folder import FolderAccess
from offhost.vsphere.session import VSphere
from support.vcenter import DiskSpec, SimulatedVCenter

pytestmark = pytest.mark.vsim

T = TypeVar("T")
PATH = "[DS1] my vm/dïsk #1+2%.bin"
CONTENT = bytes(range(256)) * 64


@pytest.fixture
def file(vcenter: SimulatedVCenter) -> None:
    """A file whose name needs every kind of quoting."""
    folder = vcenter.datastores["DS1"] / "my vm"
    folder.mkdir()
    (folder / "dïsk #1+2%.bin").write_bytes(CONTENT)


@pytest.fixture
def folder(vsphere: VSphere) -> Iterator[FolderAccess]:
    """Closed at the end."""
    access = FolderAccess(vsphere)
    yield access
    access.close()


async def off_loop(function: Callable[..., T], *args: object) -> T:
    """As the data path calls it: in a thread."""
    return await asyncio.to_thread(function, *args)


def fetch(folder: FolderAccess, start: int, length: int) -> bytes:
    """A range of the file."""
    buffer = bytearray(length)
    folder.fetch_range(PATH, start, length, memoryview(buffer))
    return bytes(buffer)


@pytest.mark.usefixtures("file")
class TestReading:
    """Of a file that is there."""

    async def test_the_size_is_told(self, folder: FolderAccess) -> None:
        assert await off_loop(folder.file_size, PATH) == len(CONTENT)

    @pytest.mark.parametrize(("start", "length"), [(0, 1), (0, len(CONTENT)), (1000, 3000), (len(CONTENT) - 1, 1)])
    async def test_a_range_is_exactly_that_range(self, folder: FolderAccess, start: int, length: int) -> None:
        assert await off_loop(fetch, folder, start, length) == CONTENT[start : start + length]

    async def test_nothing_is_asked_for_nothing(self, vcenter: SimulatedVCenter, folder: FolderAccess) -> None:
        assert await off_loop(fetch, folder, 5, 0) == b""
        assert vcenter.calls().folder_requests == 0

    async def test_a_range_beyond_the_end_fails_instead_of_being_filled_up(self, folder: FolderAccess) -> None:
        with pytest.raises(ReadFailed):
            await off_loop(fetch, folder, len(CONTENT) - 5, 10)

    async def test_a_download_is_bounded(self, folder: FolderAccess) -> None:
        assert await off_loop(folder.download, PATH, len(CONTENT)) == CONTENT
        with pytest.raises(ReadFailed, match="larger than"):
            await off_loop(folder.download, PATH, len(CONTENT) - 1)

    async def test_a_dropped_session_is_renewed(self, vcenter: SimulatedVCenter, folder: FolderAccess) -> None:
        assert await off_loop(fetch, folder, 0, 4) == CONTENT[:4]
        vcenter.drop_sessions()
        assert await off_loop(fetch, folder, 4, 4) == CONTENT[4:8]
        assert vcenter.calls().methods["Login"] == 2

    async def test_threads_read_at_once(self, folder: FolderAccess) -> None:
        with ThreadPoolExecutor(8) as pool:
            pieces = list(pool.map(lambda at: fetch(folder, at * 512, 512), range(32)))
        assert b"".join(pieces) == CONTENT


async def test_a_file_that_is_not_there_is_not_found(folder: FolderAccess) -> None:
    for call in (folder.file_size, lambda path: folder.download(path, 10)):
        with pytest.raises(NotFound, match=r"nothing\.vmdk"):
            await off_loop(call, "[DS1] web/nothing.vmdk")


async def test_a_file_that_may_not_be_read_costs_no_log_in(
    vcenter: SimulatedVCenter, folder: FolderAccess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The endpoint says 403 of a file as of a session it does not know: only the latter is mended by logging in."""
    ask = FolderAccess._ask

    def forbidden(self: FolderAccess, *request: Any) -> HTTPResponse:
        answer = ask(self, *request)
        answer.status = 403
        return answer

    monkeypatch.setattr(FolderAccess, "_ask", forbidden)
    for _ in range(3):
        with pytest.raises(PermissionDenied):
            await off_loop(folder.download, "[DS1] web/web.vmx", 10)
    assert vcenter.calls().methods["Login"] == 1
    vcenter.drop_sessions()
    with pytest.raises(PermissionDenied):
        await off_loop(folder.download, "[DS1] web/web.vmx", 10)
    assert vcenter.calls().methods["Login"] == 2


async def test_a_datastore_nobody_has_is_not_found(folder: FolderAccess) -> None:
    with pytest.raises(NotFound, match="'DS9'"):
        await off_loop(folder.file_size, "[DS9] web/web.vmdk")


async def test_a_running_vms_disk_cannot_be_read(vcenter: SimulatedVCenter, folder: FolderAccess) -> None:
    (disk,) = vcenter.disks(vcenter.create_vm("db", [DiskSpec(1 << 20)]))
    path = f"[DS1] db/{disk.extent.name}"
    with pytest.raises(ReadFailed, match="500"):
        await off_loop(folder.download, path, 2 << 20)


class TestWriting:
    """Whole files."""

    async def test_what_was_written_reads_back(self, vcenter: SimulatedVCenter, folder: FolderAccess) -> None:
        (vcenter.datastores["DS1"] / "my vm").mkdir()
        pieces = [CONTENT[:1000], CONTENT[1000:]]
        await off_loop(folder.upload, PATH, len(CONTENT), iter(pieces))
        assert await off_loop(folder.download, PATH, len(CONTENT)) == CONTENT

    async def test_a_session_that_has_expired_is_renewed_before_the_first_byte(
        self, vcenter: SimulatedVCenter, folder: FolderAccess
    ) -> None:
        vcenter.drop_sessions()
        await off_loop(folder.upload, "[DS1] file", 4, iter([b"data"]))
        assert (vcenter.datastores["DS1"] / "file").read_bytes() == b"data"

    @pytest.mark.parametrize("pieces", [[b"abc"], [b"abc", b"def"]], ids=["too few", "too many"])
    async def test_other_than_the_announced_bytes_are_an_error(self, folder: FolderAccess, pieces: list[bytes]) -> None:
        with pytest.raises(VSphereError, match="announced 4 bytes"):
            await off_loop(folder.upload, "[DS1] file", 4, iter(pieces))

    async def test_a_directory_that_is_not_there_is_not_found(self, folder: FolderAccess) -> None:
        with pytest.raises(NotFound):
            await off_loop(folder.upload, "[DS1] nowhere/file", 4, iter([b"data"]))
