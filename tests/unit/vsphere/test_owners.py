"""Whose snapshot it is, by its description alone; and what its disks descend from."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offhost.ids import InstallationId, RunId
from offhost.vsphere.snapshots import Owner, current_lineage, lineage, owner_of
from offhost.vsphere.values import Snapshot

hexadecimal = st.text("0123456789abcdef", min_size=32, max_size=32)


def snapshot(moref: str, description: str = "", parent: str | None = None, *, current: bool = False) -> Snapshot:
    """A snapshot in a tree."""
    return Snapshot(
        moref=moref,
        id=1,
        name="x",
        description=description,
        parent=parent,
        created="2024-01-01T00:00:00Z",
        quiesced=False,
        power="on",
        current=current,
    )


@given(hexadecimal, hexadecimal)
def test_a_description_gives_its_owner_back(installation: str, run: str) -> None:
    owner = Owner(InstallationId(installation), RunId(run))
    assert owner_of(snapshot("s", owner.description())) == owner


@pytest.mark.parametrize(
    "description",
    [
        "",
        "offhost backup",
        "offhost backup: installation x run y",
        "offhost backup: installation " + "a" * 32 + " run " + "b" * 31,
        "offhost backup: installation " + "a" * 32 + " run " + "b" * 33,
        "copied: offhost backup: installation " + "a" * 32 + " run " + "b" * 32,
    ],
)
def test_what_does_not_say_it_exactly_is_not_ours(description: str) -> None:
    assert owner_of(snapshot("s", description)) is None


TREE = [
    snapshot("root"),
    snapshot("left", parent="root"),
    snapshot("right", parent="root", current=True),
    snapshot("ours", parent="right"),
]


def test_the_lineage_is_from_the_root_to_the_parent() -> None:
    assert [one.partition("@")[0] for one in lineage(TREE, "ours")] == ["root", "right"]


def test_the_lineage_of_a_first_snapshot_is_empty() -> None:
    assert lineage([snapshot("ours")], "ours") == ()


def test_a_snapshot_taken_now_would_descend_from_the_current_one() -> None:
    assert current_lineage(TREE[:3]) == lineage(TREE, "ours")
    assert current_lineage([]) == ()


def test_a_snapshot_made_anew_is_another_ancestor() -> None:
    again = [snapshot("root"), snapshot("ours", parent="root")]
    before = lineage(again, "ours")
    assert before != lineage([snapshot("root2"), snapshot("ours", parent="root2")], "ours")
