"""Answers of QueryChangedDiskAreas that contradict themselves are refused, not repaired and not looped over."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offhost.errors import ChangeTrackingInvalid
from offhost.extents import Extent
from offhost.ids import DiskKey
from offhost.vsphere.tracking import _believed, _same_tracking
from offhost.vsphere.values import Backing, Disk

SIZE = 1000
DISK = Disk(
    key=DiskKey("scsi0:0"),
    device_key=2000,
    label="Hard disk 1",
    unit="scsi0:0",
    bus_sharing=False,
    capacity_bytes=SIZE,
    change_id="u/1",
    backing=Backing(
        kind="flat",
        file="[DS1] web/web.vmdk",
        chain=("[DS1] web/web.vmdk",),
        datastore="DS1",
        uuid=None,
        mode="persistent",
        multi_writer=False,
        encrypted=False,
        thin=True,
    ),
)


def answer(start: int, length: int, *areas: tuple[int, int]) -> SimpleNamespace:
    """As pyVmomi decodes it."""
    return SimpleNamespace(
        startOffset=start,
        length=length,
        changedArea=[SimpleNamespace(start=at, length=long) for at, long in areas],
    )


def test_an_answer_that_covers_nothing_is_an_error_not_an_endless_loop() -> None:
    with pytest.raises(ChangeTrackingInvalid, match="contradicts itself"):
        list(_believed(answer(0, 0), 0, DISK))


@pytest.mark.parametrize(
    ("page", "asked"),
    [
        (answer(100, 200), 0),
        (answer(0, -1), 0),
        (answer(0, SIZE + 1), 0),
        (answer(0, 500, (-10, 20)), 0),
        (answer(0, 500, (490, 20)), 0),
        (answer(0, 500, (10, 0)), 0),
        (answer(0, 500, (10, -5)), 0),
        (answer(0, 500, (10, 20), (20, 20)), 0),
        (answer(0, 500, (100, 20), (10, 20)), 0),
        (answer(500, 500, (400, 150)), 500),
    ],
    ids=[
        "another place",
        "negative",
        "beyond the disk",
        "area before the disk",
        "area beyond the answer",
        "empty area",
        "negative area",
        "overlap",
        "backwards",
        "area before the question",
    ],
)
def test_an_answer_that_contradicts_itself_is_refused(page: SimpleNamespace, asked: int) -> None:
    with pytest.raises(ChangeTrackingInvalid, match="contradicts itself"):
        list(_believed(page, asked, DISK))


@given(st.lists(st.integers(0, SIZE - 1), unique=True, max_size=20).map(sorted))
def test_ordered_disjoint_areas_are_taken_as_they_are(cuts: list[int]) -> None:
    areas = [(low, high - low) for low, high in zip(cuts[::2], cuts[1::2], strict=False)]
    assert list(_believed(answer(0, SIZE, *areas), 0, DISK)) == [Extent(at, at + long) for at, long in areas]


@pytest.mark.parametrize("change_id", ["u/1", "u/2", "u/10"])
def test_a_change_id_that_follows_the_bases_is_asked_about(change_id: str) -> None:
    _same_tracking(replace(DISK, change_id=change_id), "u/1")


@pytest.mark.parametrize(
    ("change_id", "base"), [(None, "u/1"), ("v/3", "u/1"), ("u/3", "u/9"), ("u/10", "u/9x"), ("u/", "u/1"), ("u", "u")]
)
def test_one_that_does_not_follow_the_bases_is_not(change_id: str | None, base: str) -> None:
    """A sequence that went back means that the disk did."""
    with pytest.raises(ChangeTrackingInvalid):
        _same_tracking(replace(DISK, change_id=change_id), base)
