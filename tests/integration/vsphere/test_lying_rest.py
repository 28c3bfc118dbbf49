"""A REST interface that refuses, or answers nonsense: an error each time, and no repetition of a refused password."""

from collections.abc import Callable
from typing import Any, cast

import pytest

from offhost.clock import SystemClock
from offhost.errors import LoginFailed, VSphereError
from offhost.vsphere.login import Login
from offhost.vsphere.rest import Rest
from offhost.vsphere.trust import Endpoint, Trust
from support.answers import Answering, answering


def rest_at(host: Answering) -> Rest:
    """The REST interface of that host."""
    endpoint = Endpoint(host="vc", user="user", password=lambda: "secret")
    return Rest(endpoint, cast(Trust, host), Login(endpoint, SystemClock()))


def use(rest: Rest) -> Any:
    """Ask something."""
    with rest.session() as ask:
        return ask("GET", "/thing")


def test_a_refused_password_is_sent_once() -> None:
    with answering(401, b"", Content_Length="0") as host:
        rest = rest_at(host)
        for _ in range(3):
            with pytest.raises(LoginFailed):
                use(rest)
    assert host.asked == ["POST /rest/com/vmware/cis/session"]


def tags_over(rest: Rest) -> object:
    """A tag's name, where a list is answered."""
    with rest.session() as ask:
        return ask("GET", "/tag")["name"]


@pytest.mark.parametrize("body", [b"no JSON", b"[]", b'"text"', b'{"value": '], ids=str)
def test_an_answer_that_makes_no_sense_is_an_error(body: bytes) -> None:
    with answering(200, body, Content_Length=str(len(body))) as host, pytest.raises(VSphereError, match="no sense"):
        use(rest_at(host))


def test_values_of_another_shape_are_an_error() -> None:
    body = b'{"value": ["urn:tag"]}'
    with answering(200, body, Content_Length=str(len(body))) as host, pytest.raises(VSphereError, match="no sense"):
        tags_over(rest_at(host))


def test_an_answer_without_end_is_cut_off() -> None:
    with answering(200, b'{"value": "' + b"x" * (5 << 20)) as host, pytest.raises(VSphereError):
        use(rest_at(host))


@pytest.mark.parametrize("tell", [str, repr])
def test_no_error_tells_the_password(tell: Callable[[object], str]) -> None:
    with answering(500, b"", Content_Length="0") as host, pytest.raises(VSphereError) as raised:
        use(rest_at(host))
    assert "secret" not in tell(raised.value)
