"""Every doubt about a base is a full read with its reason."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from offhost.backup.base import ReadMode, due, full_due_reason, full_read_reason, last_full, source_of
from offhost.ids import ChunkId, DiskKey, SessionId, VmId
from offhost.repository.points.manifest import DiskMapRef, Manifest, PointDisk
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


def test_tracking_that_was_begun_anew_after_a_lie_is_believed_as_any_other() -> None:
    assert reason(base=replace(BASE, source=BASE.source | {"lied": "52 aa"})) is None


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
        (DISK, replace(BASE, source=BASE.source | {"lied": "52 de"}), {}, "caught its change tracking lying"),
        (DISK, BASE, {"reverted": True}, "reverted"),
        (DISK, BASE, {"cutter": "page-2"}, "cut by"),
        (DISK, replace(BASE, source={}), {}, "not active at its last"),
    ],
)
def test_every_doubt_is_a_full_read(disk: Disk, base: PointDisk | None, changes: dict[str, object], told: str) -> None:
    found = reason(disk, base, **changes)
    assert found is not None
    assert told in found


NOW = datetime(2026, 3, 1, tzinfo=UTC)
MONTH = timedelta(days=30)


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        ("2026-02-28T00:00:00Z", False),
        ("2026-01-30T00:00:01Z", False),
        ("2026-01-30T00:00:00Z", True),
        ("2026-03-01T00:00:01Z", True),  # ahead: a clock was set back, and nothing is known
        ("2026-02-28T00:00:00", True),
        ("yesterday", True),
        ("", True),
        (None, True),
        (1772236800, True),
    ],
)
def test_what_is_too_long_ago_or_not_known_is_due(last: object, expected: bool) -> None:
    assert due(last, MONTH, NOW) is expected


def disk(mode: ReadMode, full_at: str | None) -> PointDisk:
    source = source_of(DISK, LINEAGE, "2026-01-01T00:00:00Z", mode=mode, full_at=full_at)
    return replace(BASE, source=source.to_json())


def point(name: str, of: PointDisk) -> Manifest:
    return Manifest(
        id=SessionId(name),
        vm_id=VmId("vm"),
        vm_name="web",
        sequence=1,
        predecessor=None,
        time=NOW,
        kind=of.source["mode"],
        consistency="crash",
        disks=(of,),
    )


def test_a_full_read_is_due_only_where_the_job_asks_and_there_is_a_last_one() -> None:
    old = disk("incremental", "2026-01-01T00:00:00+00:00")
    assert full_due_reason(old, None, NOW) is None
    assert full_due_reason(None, MONTH, NOW) is None
    told = full_due_reason(old, MONTH, NOW)
    assert told == "the job reads in full every 30d, and last did 2026-01-01T00:00:00+00:00"
    assert full_due_reason(disk("incremental", None), MONTH, NOW)
    assert full_due_reason(disk("full", "2026-02-20T00:00:00+00:00"), MONTH, NOW) is None


def test_a_differential_goes_back_to_the_point_of_the_very_full_read_that_the_last_point_names() -> None:
    older, newer = "2026-01-01T00:00:00+00:00", "2026-02-01T00:00:00+00:00"
    points = [
        point("3", disk("incremental", newer)),
        point("2", disk("full", newer)),
        point("1", disk("full", older)),
    ]
    found, lost = last_full(points, disk("incremental", newer))
    assert (found, lost) == (points[1], None)
    found, lost = last_full([points[0], points[2]], disk("incremental", newer))
    assert found is None
    assert lost is not None
    assert "not in the repository any more" in lost
    found, lost = last_full(points, disk("incremental", None))
    assert (found, lost) == (None, "when it was last read in full is not known")
