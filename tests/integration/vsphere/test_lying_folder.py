"""A /folder that answers something else than it was asked: an error each time, never other bytes."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import cast

import pytest

from offhost.errors import NotFound, PermissionDenied, ReadFailed
from offhost.vsphere.folder import FolderAccess
from offhost.vsphere.session import VSphere
from support.answers import answering

PATH = "[DS1] web/web.vmdk"


@contextmanager
def folder_answering(status: int, body: bytes, **headers: str) -> Iterator[FolderAccess]:
    """The files of a standalone host that gives the same answer to whatever it is asked."""
    live = SimpleNamespace(cookie="vmware_soap_session=x")
    with answering(status, body, **headers) as host:
        session = SimpleNamespace(
            about=SimpleNamespace(is_vcenter=False),
            soap=SimpleNamespace(live=lambda: live, renewed=lambda _stale: live, call=lambda _call, _doing: None),
            trust=host,
        )
        folder = FolderAccess(cast(VSphere, session))
        try:
            yield folder
        finally:
            folder.close()


def fetched(folder: FolderAccess) -> bytes:
    """Four bytes at 100."""
    buffer = bytearray(4)
    folder.fetch_range(PATH, 100, 4, memoryview(buffer))
    return bytes(buffer)


def test_the_right_answer_is_taken() -> None:
    with folder_answering(206, b"data", Content_Length="4", Content_Range="bytes 100-103/1000") as folder:
        assert fetched(folder) == b"data"


@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [
        (206, b"data", {"Content_Length": "4", "Content_Range": "bytes 0-3/1000"}),
        (206, b"data", {"Content_Length": "4"}),
        (206, b"da", {"Content_Length": "2", "Content_Range": "bytes 100-103/1000"}),
        (206, b"da", {"Content_Length": "4", "Content_Range": "bytes 100-103/1000"}),
        (200, b"whole file", {"Content_Length": "10"}),
        (500, b"", {"Content_Length": "0"}),
        (302, b"", {"Content_Length": "0", "Location": "http://elsewhere/"}),
    ],
    ids=["another range", "no range", "too short", "broken off", "the whole file", "an error", "elsewhere"],
)
def test_another_answer_is_an_error(status: int, body: bytes, headers: dict[str, str]) -> None:
    with folder_answering(status, body, **headers) as folder, pytest.raises(ReadFailed):
        fetched(folder)


def test_a_download_without_end_is_cut_off() -> None:
    with folder_answering(200, b"x" * 100_000) as folder, pytest.raises(ReadFailed, match="larger than 1000 bytes"):
        folder.download(PATH, 1000)


def test_a_size_that_is_not_told_is_an_error() -> None:
    with folder_answering(200, b"") as folder, pytest.raises(ReadFailed, match="how large"):
        folder.file_size(PATH)


@pytest.mark.parametrize(("status", "error"), [(401, PermissionDenied), (403, PermissionDenied), (404, NotFound)])
def test_refusals_are_told_apart(status: int, error: type[Exception]) -> None:
    with folder_answering(status, b"", Content_Length="0") as folder, pytest.raises(error, match=r"web/web\.vmdk"):
        fetched(folder)
