"""The audit: change tracking that lies is found out, the disk is read in full, and everybody is told."""

import threading
from datetime import timedelta
from functools import partial
from random import Random

import pytest

from offhost.backup import vm as backup_vm
from offhost.backup.audit import Audited, AuditPolicy, AuditRead, Comparison, Sampling, sample
from offhost.blockio import ReadAt
from offhost.pacing import Paces
from support.backed_up_vms import BackedUpVm
from support.repositories import noise
from support.vcenter import DiskSpec

GRAIN = 64 << 10
MONTH = timedelta(days=30)
SAMPLE = AuditPolicy(MONTH, "sample")
ALL = AuditPolicy(MONTH, "all")


def lie(web: BackedUpVm, offset: int, length: int) -> None:
    """The guest writes, and change tracking will not say so."""
    web.vcenter.leave_unreported(web.moref, web.disk_key, offset, length)
    web.write(offset, noise(99, length))


async def test_a_lie_that_nobody_looks_for_makes_a_wrong_point(web: BackedUpVm) -> None:
    """What the audit is for: the simulated vCenter does lie, and nothing else would notice."""
    await web.run()
    lie(web, 10 * GRAIN, GRAIN)
    report = await web.run()
    assert report.warnings == ()
    assert web.content(report) != web.seen_by_guest()


@pytest.mark.narrow
@pytest.mark.parametrize("read", ["sample", "all"])
async def test_an_audit_finds_the_lie_and_the_point_is_right(web: BackedUpVm, read: AuditRead) -> None:
    policy, told = AuditPolicy(MONTH, read), list[tuple[str, int]]()
    await web.run(audit=policy)
    lie(web, 10 * GRAIN, GRAIN)
    web.write(90 * GRAIN, noise(5, GRAIN))
    report = await web.run(audit=policy, days_later=31, on_lie=lambda disk, size: told.append((disk, size)))
    (disk,) = report.disks
    assert disk.mode == "full"
    assert "audit" in (disk.reason or "")
    assert disk.unreported_bytes >= GRAIN
    assert web.content(report) == web.seen_by_guest()
    assert any("change tracking lied" in warning for warning in report.warnings)
    assert told == [(disk.label, disk.unreported_bytes)]


async def test_tracking_that_lied_is_begun_anew(web: BackedUpVm) -> None:
    await web.run(audit=ALL)
    lie(web, 10 * GRAIN, GRAIN)
    report = await web.run(audit=ALL, days_later=31)
    assert any("change tracking was renewed" in warning for warning in report.warnings)
    after = await web.run(audit=ALL, days_later=32)
    assert after.disks[0].mode == "full"
    assert "started anew" in (after.disks[0].reason or "")
    assert (await web.run(audit=ALL, days_later=33)).disks[0].mode == "incremental"


async def test_tracking_that_lied_and_cannot_be_begun_anew_is_not_believed_again(web: BackedUpVm) -> None:
    await web.run(audit=ALL)
    theirs = web.vcenter.create_foreign_snapshot(web.moref)
    lie(web, 10 * GRAIN, GRAIN)
    report = await web.run(audit=ALL, days_later=31)
    assert any("could not be renewed" in warning for warning in report.warnings)
    for day in (32, 33):
        after = await web.run(audit=ALL, days_later=day)
        assert after.disks[0].mode == "full"
        assert "caught its change tracking lying" in (after.disks[0].reason or "")
        assert web.content(after) == web.seen_by_guest()
    web.vcenter.remove_snapshot(web.moref, theirs)
    web.vcenter.set_change_tracking(web.moref, on=False)
    web.vcenter.remove_snapshot(web.moref, web.vcenter.create_foreign_snapshot(web.moref))
    await web.run(audit=ALL, days_later=34)
    assert (await web.run(audit=ALL, days_later=35)).disks[0].mode == "incremental"


async def test_a_lie_found_again_in_an_old_point_is_found_too(web: BackedUpVm) -> None:
    """The lie was told to an earlier run, whose point is the base by now: it is in no areas of this run's."""
    await web.run(audit=ALL)
    lie(web, 10 * GRAIN, GRAIN)
    wrong = await web.run(audit=ALL)
    assert web.content(wrong) != web.seen_by_guest()
    report = await web.run(audit=ALL, days_later=31)
    assert report.disks[0].unreported_bytes
    assert web.content(report) == web.seen_by_guest()


@pytest.mark.parametrize("read", ["sample", "all"])
async def test_tracking_that_told_the_truth_passes(web: BackedUpVm, read: AuditRead) -> None:
    policy = AuditPolicy(MONTH, read)
    await web.run(audit=policy)
    for at in (1, 33, 100):
        web.write(at * GRAIN, noise(at, 100_000))
    report = await web.run(audit=policy, days_later=31)
    (disk,) = report.disks
    assert report.warnings == ()
    assert disk.mode == ("incremental" if read == "sample" else "full")
    assert disk.unreported_bytes == 0
    assert disk.audited_bytes
    assert web.content(report) == web.seen_by_guest()
    after = await web.run(audit=policy, days_later=32)
    assert (after.disks[0].mode, after.disks[0].audited_bytes) == ("incremental", None)


@pytest.mark.parametrize("read", ["sample", "all"])
async def test_when_the_last_audit_was_is_kept_with_the_points_through_every_incremental(
    web: BackedUpVm, read: AuditRead
) -> None:
    policy = AuditPolicy(MONTH, read)
    await web.run(audit=policy)
    audited = []
    for day in range(1, 100, 14):
        report = await web.run(audit=policy, days_later=day)
        audited += [day] if report.disks[0].audited_bytes is not None else []
    assert audited == [43, 85]


async def test_a_lie_about_what_became_zeros_is_found(web: BackedUpVm) -> None:
    await web.run(audit=ALL)
    web.vcenter.leave_unreported(web.moref, web.disk_key, 8 * GRAIN, 4 * GRAIN)
    web.write(8 * GRAIN, bytes(4 * GRAIN))
    report = await web.run(audit=ALL, days_later=31)
    assert report.disks[0].unreported_bytes
    assert web.content(report) == web.seen_by_guest()


async def test_a_lie_about_what_was_zeros_is_found(web: BackedUpVm) -> None:
    await web.run(audit=ALL)
    lie(web, 120 * GRAIN, GRAIN)
    report = await web.run(audit=ALL, days_later=31)
    assert report.disks[0].unreported_bytes
    assert web.content(report) == web.seen_by_guest()


async def test_a_lie_beside_a_reported_change_in_the_same_chunk_is_found(web: BackedUpVm) -> None:
    """No digest tells of a chunk that changed in part: what the repository has of it is compared."""
    await web.run(audit=ALL)
    web.write(10 * GRAIN, noise(1, GRAIN))
    lie(web, 11 * GRAIN, 4096)
    report = await web.run(audit=ALL, days_later=31)
    assert report.disks[0].unreported_bytes
    assert web.content(report) == web.seen_by_guest()


async def test_a_full_read_that_is_due_audits_for_nothing(web: BackedUpVm) -> None:
    await web.run(audit=SAMPLE, full_every=MONTH)
    lie(web, 10 * GRAIN, GRAIN)
    report = await web.run(audit=SAMPLE, full_every=MONTH, days_later=31)
    assert "every 30d" in (report.disks[0].reason or "")
    assert report.disks[0].unreported_bytes
    assert report.warnings


async def test_a_differential_is_audited_against_the_full_it_builds_on(web: BackedUpVm) -> None:
    await web.run(mode="differential", audit=ALL)
    lie(web, 10 * GRAIN, GRAIN)
    await web.run(mode="differential", audit=ALL)
    report = await web.run(mode="differential", audit=ALL, days_later=31)
    assert report.disks[0].unreported_bytes
    assert web.content(report) == web.seen_by_guest()


@pytest.mark.slow
async def test_a_sample_finds_what_it_says_it_finds(web: BackedUpVm, monkeypatch: pytest.MonkeyPatch) -> None:
    """32 blocks of 64 KiB of 64 MiB of which 1/16 differ: at least 1 - (15/16)^32, which is 0.87."""
    size = 64 << 20
    moref = web.vcenter.create_vm("large", [DiskSpec(size, noise(3, size))], change_tracking=True)
    large = BackedUpVm(web.vcenter, web.vsphere, web.destination, moref)
    await large.run()
    for at in Random(1).sample(range(size // GRAIN), size // GRAIN // 16):
        lie(large, at * GRAIN, GRAIN)
    found = list[bool]()

    def sampled(source: ReadAt, compared: Comparison, stop: threading.Event, *, paces: Paces) -> Audited:
        drawn = partial(sample, source, compared, stop, paces=paces, sampling=Sampling(32, GRAIN))
        samples = [drawn(chance=Random(at)) for at in range(50)]
        found.extend(bool(one.unreported) for one in samples)
        assert all(one.compared_bytes == 32 * GRAIN for one in samples)
        return samples[0]

    monkeypatch.setattr(backup_vm, "sample", sampled)
    await large.run(audit=AuditPolicy(timedelta(), "sample"))
    assert len(found) == 50
    assert sum(found) >= 40
