"""A VM counts as deleted only when that is certain."""

import pytest

from offhost.ids import VmId
from offhost.vsphere.roster import Roster

WEB, DB = VmId("5ca1ab1e/web"), VmId("5ca1ab1e/db")


@pytest.mark.parametrize(
    ("roster", "vm", "gone"),
    [
        (Roster("5CA1AB1E", frozenset({WEB}), 0), DB, True),
        (Roster("5ca1ab1e", frozenset({WEB}), 0), WEB, False),
        (Roster("5ca1ab1e", frozenset({WEB}), 1), DB, False),
        (Roster("5ca1ab1e", frozenset(), 0), DB, False),
        (Roster("0ther", frozenset({WEB}), 0), DB, False),
        (Roster("5ca1ab1e", frozenset({WEB}), 0), VmId("image/web"), False),
    ],
    ids=["gone", "there", "it may be one without identity", "rights taken away", "another vCenter's", "an image"],
)
def test_who_is_known_to_be_gone(roster: Roster, vm: VmId, gone: bool) -> None:
    assert roster.lacks(vm) == gone
