"""A refused password is not repeated so often that the account is locked, and not refused for ever."""

from datetime import UTC, datetime

import pytest

from offhost.errors import LoginFailed
from offhost.vsphere.login import Login
from offhost.vsphere.trust import Endpoint


class Hands:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.at = 1000.0

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC)

    def monotonic(self) -> float:
        return self.at


@pytest.fixture
def clock() -> Hands:
    return Hands()


@pytest.fixture
def passwords() -> list[str]:
    return ["first"]


@pytest.fixture
def login(clock: Hands, passwords: list[str]) -> Login:
    endpoint = Endpoint(host="vc", user="user", password=lambda: passwords[-1], relogin_s=600)
    made = Login(endpoint, clock)
    made.refused(made.password(), LoginFailed("not accepted"))
    return made


def test_a_refused_password_is_not_handed_out_again(login: Login) -> None:
    with pytest.raises(LoginFailed, match="not accepted"):
        login.password()


def test_another_one_is(login: Login, passwords: list[str]) -> None:
    passwords.append("second")
    assert login.password() == "second"


def test_the_same_one_is_after_a_while(login: Login, clock: Hands) -> None:
    clock.at += 599
    with pytest.raises(LoginFailed):
        login.password()
    clock.at += 1
    assert login.password() == "first"


def test_it_does_not_keep_the_password(login: Login) -> None:
    assert "first" not in repr(vars(login))
