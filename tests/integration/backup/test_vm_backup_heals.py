"""Damage in the repository is healed by a VM's next incremental, which reads little more than what changed."""

import threading
from pathlib import Path

import pytest

from offhost.repository.chunks.packs import Kind
from offhost.repository.verification.verify import VerifyReport, verify
from support.backed_up_vms import BackedUpVm
from support.damage import chunks_of, flip, place_of, rot


def root_of(web: BackedUpVm) -> Path:
    return Path(web.destination.repository.backend.location)


def checked(web: BackedUpVm) -> VerifyReport:
    return verify(web.destination.repository, data=True, stop=threading.Event())


@pytest.mark.parametrize("kind", [Kind.CONTENT, Kind.LEAF], ids=["content", "leaf"])
async def test_an_incremental_reads_again_what_is_damaged_and_says_so(web: BackedUpVm, kind: Kind) -> None:
    repository = web.destination.repository
    first = await web.run()
    chunk = chunks_of(repository, web.point(first), kind)[-1]
    rot(root_of(web), place_of(repository, chunk))
    (damage,) = checked(web).damage
    assert "web" in damage.harms[0]
    assert web.point(first).id[:12] in damage.harms[0]
    assert web.point(first).disks[0].key in damage.harms[0]
    if kind is Kind.CONTENT:  # of a leaf that is lost nothing would be left for the first point
        web.write(0, b"changed")
    second = await web.run()
    assert second.disks[0].mode == "incremental"
    assert ["healed" in warning for warning in second.warnings] == [True]
    assert web.content(second) == web.seen_by_guest()
    report = checked(web)
    assert report.damage == []
    assert len(report.healed) == 1
    third = await web.run()
    assert third.warnings == ()
    assert third.disks[0].read_bytes == 0


async def test_a_base_whose_list_page_is_damaged_is_a_full_read(web: BackedUpVm) -> None:
    repository = web.destination.repository
    first = await web.run()
    rot(root_of(web), place_of(repository, chunks_of(repository, web.point(first), Kind.PAGE)[0]))
    second = await web.run()
    assert second.disks[0].mode == "full"
    assert "damaged" in (second.disks[0].reason or "")
    assert web.content(second) == web.seen_by_guest() == web.content(first)
    assert checked(web).damage == []


async def test_a_point_that_does_not_open_is_no_base(web: BackedUpVm) -> None:
    first = await web.run()
    (path,) = (root_of(web) / "points").rglob(str(first.point))
    flip(path, 60)
    second = await web.run()
    assert second.disks[0].mode == "full"
    assert web.content(second) == web.seen_by_guest()
