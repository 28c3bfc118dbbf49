"""Every doubt about a base is a full read with its reason."""

from dataclasses import replace

import pytest

from offhost.backup.base import full_read_reason, source_of
from offhost.ids import ChunkId, DiskKey
from offhost.repository.points.manifest import DiskMapRef, PointDisk
from offhost.vsphere.values import Backing, Disk

LINEAGE = ("snapshot-1@2026-01-01T00:00:00Z",)
DISK = Disk(
    key=DiskKey("6000c29c"),
    device_key=2000,
    label="Hard disk 1",
    unit="scsi0:0",
    bus_sharing=False,
    capacity_bytes=1 << 20,
    change_id="52 de/4",
    backing=Backing(
        kind="flat",
        file="[DS1] web/web.vmdk",
        chain=("[DS1] web/web.vmdk",),
        datastore="DS1",
        uuid="6000c29c",
        mode="persistent",
        multi_writer=False,
        encrypted=False,
        thin=True,
    ),
)
BASE = PointDisk(
    DISK.key,
    DISK.label,
    DiskMapRef(1 << 20, 1 << 20, "page-1", (ChunkId(bytes(32)),), bytes(32)),
    source_of(DISK, LINEAGE, "2026-01-01T00:00:00Z").to_json(),
)


def reason(disk: Disk = DISK, base: PointDisk | None = BASE, **changes: object) -> str | None:
    given: dict[str, object] = {"lineage": LINEAGE, "cutter": "page-1", "reverted": False} | changes
    return full_read_reason(disk, base, **given)  # type: ignore[arg-type] # the changes' types are the tests' own


def test_without_a_doubt_the_changes_are_enough() -> None:
    assert reason() is None


def test_a_snapshot_taken_above_the_base_is_no_doubt() -> None:
    assert reason(lineage=(*LINEAGE, "snapshot-2@2026-01-02T00:00:00Z")) is None


@pytest.mark.parametrize(
    ("disk", "base", "changes", "told"),
    [
        (DISK, None, {}, "first backup"),
        (replace(DISK, change_id=None), BASE, {}, "not active"),
        (DISK, replace(BASE, source=BASE.source | {"change_id": None}), {}, "not active at its last"),
        (replace(DISK, backing=replace(DISK.backing, uuid="other")), BASE, {}, "another disk"),
        (replace(DISK, device_key=2001), BASE, {}, "attached anew"),
        (replace(DISK, capacity_bytes=2 << 20), BASE, {}, "its size was"),
        (DISK, BASE, {"lineage": ()}, "do not descend"),
        (DISK, BASE, {"lineage": ("snapshot-1@2026-01-03T00:00:00Z",)}, "do not descend"),
        (DISK, BASE, {"reverted": True}, "reverted"),
        (DISK, BASE, {"cutter": "page-2"}, "cut by"),
        (DISK, replace(BASE, source={}), {}, "not active at its last"),
    ],
)
def test_every_doubt_is_a_full_read(disk: Disk, base: PointDisk | None, changes: dict[str, object], told: str) -> None:
    found = reason(disk, base, **changes)
    assert found is not None
    assert told in found
