"""Answers from /folder that are not what was asked for are never taken for the file's bytes."""

from email.message import Message
from http.client import HTTPResponse
from typing import cast

import pytest

from offhost.errors import ReadFailed, VSphereError
from offhost.vsphere.folder import _check_range, _content_length, _exactly


class Answer:
    """The headers of an answer."""

    def __init__(self, **headers: str) -> None:
        self._headers = Message()
        for name, value in headers.items():
            self._headers[name.replace("_", "-")] = value

    def getheader(self, name: str) -> str | None:
        return self._headers.get(name)


def answer(**headers: str) -> HTTPResponse:
    """As http.client hands it over."""
    return cast(HTTPResponse, Answer(**headers))


def test_the_range_that_was_asked_for_is_taken() -> None:
    _check_range(answer(Content_Range="bytes 100-149/1000"), "[DS1] x", 100, 50)
    _check_range(answer(Content_Range="bytes 100-149/*"), "[DS1] x", 100, 50)


@pytest.mark.parametrize(
    "told",
    ["bytes 0-49/1000", "bytes 100-148/1000", "bytes 100-150/1000", "bytes */1000", "100-149", "", "bytes 100-149/1e3"],
)
def test_another_range_is_refused(told: str) -> None:
    with pytest.raises(ReadFailed, match="was offered"):
        _check_range(answer(Content_Range=told), "[DS1] x", 100, 50)


def test_no_range_at_all_is_refused() -> None:
    with pytest.raises(ReadFailed):
        _check_range(answer(), "[DS1] x", 100, 50)


@pytest.mark.parametrize("told", ["", "-1", "1e9", "٣", "12 "])
def test_a_size_that_is_no_number_is_refused(told: str) -> None:
    with pytest.raises(ReadFailed):
        _content_length(answer(Content_Length=told), "[DS1] x")


def test_an_upload_is_held_to_its_size() -> None:
    assert list(_exactly(iter([b"ab", b"cd"]), 4, "x")) == [b"ab", b"cd"]
    for pieces in ([b"ab"], [b"abc", b"de"]):
        with pytest.raises(VSphereError, match="announced 4"):
            list(_exactly(iter(pieces), 4, "x"))
