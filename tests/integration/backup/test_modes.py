"""Full, incremental and differential: what each reads; that every point is the whole disk whatever its mode."""

from datetime import timedelta
from pathlib import Path

import pytest

from offhost.repository.chunks.packs import Kind
from offhost.repository.points.manifest import Manifest
from support.backed_up_vms import BackedUpVm
from support.damage import chunks_of, place_of, rot
from support.repositories import noise
from support.vcenter import Rule

GRAIN = 64 << 10
MONTH = timedelta(days=30)


def areas(web: BackedUpVm, *grains: int) -> None:
    for at in grains:
        web.write(at * GRAIN, noise(at, GRAIN))


def forget(web: BackedUpVm, point: Manifest) -> None:
    web.destination.repository.marks.forget(point.id, "by the test")


@pytest.mark.narrow
async def test_a_differential_reads_what_changed_since_the_last_full_not_since_the_last_point(web: BackedUpVm) -> None:
    full = await web.run(mode="differential")
    assert (full.disks[0].mode, full.disks[0].reason) == ("full", "the first backup of this disk")
    areas(web, 1)
    first = await web.run(mode="differential")
    areas(web, 40)
    second = await web.run(mode="differential")
    assert [report.disks[0].mode for report in (first, second)] == ["differential"] * 2
    assert (first.disks[0].changed_bytes, second.disks[0].changed_bytes) == (GRAIN, 2 * GRAIN)
    assert web.point(second).kind == "differential"
    assert web.content(second) == web.seen_by_guest()
    again = await web.run(mode="full")
    assert web.point(again).disks[0].map.root == web.point(second).disks[0].map.root
    assert again.disks[0].new_bytes == 0


async def test_a_differential_after_incrementals_still_goes_back_to_the_full(web: BackedUpVm) -> None:
    await web.run()
    for at in (1, 20, 40):
        areas(web, at)
        await web.run()
    report = await web.run(mode="differential")
    assert (report.disks[0].mode, report.disks[0].changed_bytes) == ("differential", 3 * GRAIN)
    assert web.content(report) == web.seen_by_guest()
    areas(web, 60)
    incremental = await web.run()
    assert (incremental.disks[0].mode, incremental.disks[0].changed_bytes) == ("incremental", GRAIN)
    assert web.content(incremental) == web.seen_by_guest()


async def test_a_differential_whose_full_was_forgotten_is_a_full_with_the_reason(web: BackedUpVm) -> None:
    full = await web.run(mode="differential")
    areas(web, 1)
    await web.run(mode="differential")
    forget(web, web.point(full))
    areas(web, 40)
    report = await web.run(mode="differential")
    assert report.disks[0].mode == "full"
    assert "last full read" in (report.disks[0].reason or "")
    assert "not in the repository any more" in (report.disks[0].reason or "")
    assert web.content(report) == web.seen_by_guest()
    areas(web, 60)
    after = await web.run(mode="differential")
    assert (after.disks[0].mode, after.disks[0].changed_bytes) == ("differential", GRAIN)


async def test_a_differential_whose_full_is_damaged_is_a_full_with_the_reason(web: BackedUpVm) -> None:
    full = await web.run(mode="differential")
    areas(web, 1)
    await web.run(mode="differential")
    repository = web.destination.repository
    for page in chunks_of(repository, web.point(full), Kind.PAGE):
        rot(Path(repository.backend.location), place_of(repository, page))
    report = await web.run(mode="differential")
    assert report.disks[0].mode == "full"
    assert "damaged" in (report.disks[0].reason or "")
    assert web.content(report) == web.seen_by_guest()


async def test_a_full_that_is_gone_takes_nothing_from_the_points_after_it(web: BackedUpVm) -> None:
    """Retention knows no chains: each point is complete in itself."""
    full = await web.run(mode="differential")
    taken = []
    for at in (1, 40):
        areas(web, at)
        taken.append((await web.run(mode="differential"), web.seen_by_guest()))
    forget(web, web.point(full))
    for report, seen in taken:
        assert web.content(report) == seen


@pytest.mark.parametrize("mode", ["incremental", "differential"])
async def test_every_doubt_is_a_full_read_in_each_mode(web: BackedUpVm, mode: str) -> None:
    await web.run()
    areas(web, 1)
    web.vcenter.rules([Rule("QueryChangedDiskAreas", fault="FileFault", fields={"file": "x"})])
    report = await web.run(mode=mode)
    assert report.disks[0].mode == "full"
    assert report.disks[0].reason
    assert web.content(report) == web.seen_by_guest()


@pytest.mark.parametrize("mode", ["incremental", "differential"])
async def test_a_full_read_is_due_when_the_last_is_older_than_the_job_wants(web: BackedUpVm, mode: str) -> None:
    await web.run(mode=mode, full_every=MONTH)
    areas(web, 1)
    fresh = await web.run(mode=mode, full_every=MONTH)
    assert fresh.disks[0].mode == mode
    due = await web.run(mode=mode, full_every=MONTH, days_later=31)
    assert due.disks[0].mode == "full"
    assert "every 30d" in (due.disks[0].reason or "")
    assert web.point(due).kind == "full"
    assert due.disks[0].new_bytes == 0
    after = await web.run(mode=mode, full_every=MONTH, days_later=32)
    assert after.disks[0].mode == mode


async def test_a_full_read_is_due_after_incrementals_too(web: BackedUpVm) -> None:
    """What counts is the last full read, not the last point."""
    await web.run(full_every=MONTH)
    for day in (10, 20, 29):
        report = await web.run(full_every=MONTH, days_later=day)
        assert report.disks[0].mode == "incremental"
    assert (await web.run(full_every=MONTH, days_later=31)).disks[0].mode == "full"
