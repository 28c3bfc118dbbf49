"""Disks that a snapshot cannot hold still are refused by name, each with its reason."""

from dataclasses import replace
from typing import Any

import pytest

from offhost.ids import DiskKey
from offhost.snapshot.refusals import unreadable
from offhost.vsphere.values import Backing, Disk

BACKING = Backing(
    kind="flat",
    file="[DS1] web/web.vmdk",
    chain=("[DS1] web/web.vmdk",),
    datastore="DS1",
    uuid=None,
    mode="persistent",
    multi_writer=False,
    encrypted=False,
    thin=True,
)
DISK = Disk(
    key=DiskKey("scsi0:0"),
    device_key=2000,
    label="Hard disk 1",
    unit="scsi0:0",
    bus_sharing=False,
    capacity_bytes=1 << 20,
    change_id=None,
    backing=BACKING,
)


def test_an_ordinary_disk_is_not_refused() -> None:
    assert unreadable((DISK,)) == {}


@pytest.mark.parametrize(
    ("backing", "reason"),
    [
        ({"mode": "independent_persistent"}, "independent"),
        ({"mode": "independent_nonpersistent"}, "independent"),
        ({"mode": "nonpersistent"}, "mode is nonpersistent"),
        ({"kind": "rdm_physical"}, "physical raw device mapping"),
        ({"kind": "pmem"}, "persistent memory"),
        ({"kind": "other"}, "does not read"),
        ({"multi_writer": True}, "several writers"),
        ({"encrypted": True}, "encrypted"),
    ],
)
def test_a_disk_is_refused_by_label_with_the_reason(backing: dict[str, Any], reason: str) -> None:
    disk = replace(DISK, backing=replace(BACKING, **backing))
    told = unreadable((disk,))
    assert told.keys() == {disk.key}
    assert told[disk.key].startswith("Hard disk 1: ")
    assert reason in told[disk.key]
    assert "; " in told[disk.key], "what can be done is said, too"


def test_a_shared_bus_is_refused() -> None:
    assert "shares the bus" in unreadable((replace(DISK, bus_sharing=True),))[DISK.key]


def test_one_refused_disk_does_not_take_the_others_along() -> None:
    other = replace(DISK, key=DiskKey("scsi0:1"), backing=replace(BACKING, mode="independent_persistent"))
    assert unreadable((DISK, other)).keys() == {other.key}
