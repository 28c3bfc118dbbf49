"""What expires is forgotten with its reason; nothing else is, whatever goes wrong or goes on meanwhile."""

import threading
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from offhost.chunking.workers import SpanWorkers
from offhost.errors import BackendError, Conflict, IntegrityError, NoSpace, NotFound
from offhost.ids import ChunkId, InstallationId, SessionId, VmId
from offhost.repository.collection.collect import Collector
from offhost.repository.lifetime.expiry import ByJob, Judgement, OnePolicy, Terms, expire, judge, strangers
from offhost.repository.lifetime.pinning import Named, forget, named, pin, unpin
from offhost.repository.objects.sealed import ObjectType, seal_json
from offhost.repository.points.manifest import Manifest
from offhost.repository.repository import Repository
from offhost.repository.verification.suspects import suspects
from offhost.retention import RetentionPolicy
from support.dated_points import FIRST, by_job, put_point
from support.repositories import Memory, back_up, content, noise, opened

HERE = InstallationId("a" * 32)
TWO = OnePolicy(Terms(RetentionPolicy(keep_last=2), UTC))
LAST = OnePolicy(Terms(RetentionPolicy(keep_last=1), UTC))


def ids(points: list[Manifest]) -> list[SessionId]:
    return [point.id for point in points]


def fates(judged: list[Judgement]) -> list[tuple[SessionId, bool]]:
    return [(each.id, each.keep) for each in judged]


def collect(repository: Repository) -> None:
    Collector(repository, threading.Event(), look_again_s=0.01).run()


def spoil(root: Path, folder: str, name: str = "*") -> None:
    """Turn a bit over in every such object."""
    for file in (root / folder).rglob(name):
        if file.is_file():
            data = bytearray(file.read_bytes())
            data[-1] ^= 1
            file.chmod(0o600)
            file.write_bytes(data)


def test_what_expires_is_forgotten_with_its_reason(repository: Repository) -> None:
    points = [put_point(repository) for _ in range(4)]
    judged = judge(repository, TWO)
    assert fates(judged) == [(point.id, number >= 2) for number, point in enumerate(points)]
    assert repository.points.all() == points
    assert ids([points[0], points[1]]) == [each.id for each in expire(repository, judged)]
    assert repository.points.all() == points[2:]
    assert set(repository.marks.why_forgotten().values()) == {"expired: beyond the last 2"}


def test_each_vm_is_judged_by_itself(repository: Repository) -> None:
    kept = [put_point(repository, name) for name in ("web01", "db01")]
    (more,) = [put_point(repository, "web01")]
    expire(repository, judge(repository, LAST))
    assert repository.points.all() == [kept[1], more]
    assert expire(repository, judge(repository, LAST)) == []


def test_only_the_vms_that_are_asked_for_are_judged(repository: Repository) -> None:
    web = [put_point(repository, "web01") for _ in range(2)]
    db = [put_point(repository, "db01") for _ in range(2)]
    expire(repository, judge(repository, LAST, vms=[VmId("vc/web01"), VmId("vc/nobody")]))
    assert repository.points.all() == [*db, web[1]]


def test_a_point_falls_under_the_job_that_made_it(repository: Repository) -> None:
    nightly = [put_point(repository, origin=by_job("nightly")) for _ in range(2)]
    weekly = [put_point(repository, origin=by_job("weekly")) for _ in range(2)]
    by_hand = put_point(repository, origin={"kind": "image"})
    renamed = put_point(repository, origin=by_job("old-name"))
    copied = {"kind": "copy", "repository": "c" * 32, "point": "d" * 32, "sequence": 1, "of": by_job("nightly")}
    copy = put_point(repository, "db01", origin=copied)
    scheme = ByJob(HERE, {"nightly": LAST.terms, "weekly": Terms(RetentionPolicy(), UTC)})
    judged = {each.id: each for each in judge(repository, scheme)}
    assert [point.id for point in nightly if judged[point.id].keep] == [nightly[1].id]
    assert {judged[point.id].reasons for point in weekly} == {("no rule: everything is kept",)}
    assert judged[by_hand.id].reasons == ("made without a job: kept",)
    assert judged[copy.id].reasons == ("a copy: kept",)
    assert judged[renamed.id].reasons == ("made by `old-name`, which is not a job with this repository: kept",)
    assert [each.id for each in expire(repository, judged.values())] == [nightly[0].id]


def test_a_job_of_that_name_of_another_proxy_is_another_job(repository: Repository) -> None:
    put_point(repository, origin=by_job("nightly", "f" * 32))
    theirs = put_point(repository, origin=by_job("nightly", "f" * 32))
    scheme = ByJob(HERE, {"nightly": LAST.terms})
    judged = judge(repository, scheme)
    assert [each.keep for each in judged] == [True, True]
    assert judged[0].reasons == ("made by `nightly` of another offhost: kept",)
    # a proxy that was set up anew goes on with its history as soon as it has backed the VM up
    ours = put_point(repository, origin=by_job("nightly"))
    assert [each.id for each in expire(repository, judge(repository, scheme))][-1:] == [theirs.id]
    assert repository.points.all() == [ours]


def test_points_of_a_deleted_vm_go_after_their_time(repository: Repository) -> None:
    terms = Terms(RetentionPolicy(keep_last=3, after_vm_deleted=timedelta(days=90)), UTC)
    put_point(repository, "gone01", at=FIRST, origin=by_job("nightly"))
    put_point(repository, "there01", at=FIRST, origin=by_job("nightly"))
    scheme = ByJob(HERE, {"nightly": terms})
    assert strangers(repository, [VmId("vc/there01")]) == {VmId("vc/gone01")}
    repository.clock = Stopped(FIRST + timedelta(days=89))
    assert expire(repository, judge(repository, scheme, is_deleted=lambda vm: vm == "vc/gone01")) == []
    repository.clock = Stopped(FIRST + timedelta(days=90))
    expired = expire(repository, judge(repository, scheme, is_deleted=lambda vm: vm == "vc/gone01"))
    assert [each.vm_name for each in expired] == ["gone01"]


class Stopped:
    """A clock that shows one time."""

    def __init__(self, at: datetime) -> None:
        self.at = at

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return 0.0


def test_tags_are_kept_by_whoever_copied_the_point(repository: Repository) -> None:
    tagged = {"kind": "image", "files": [], "tags": ["audit"]}
    copied = {"kind": "copy", "repository": "c" * 32, "point": "d" * 32, "sequence": 1, "of": tagged}
    for origin in (tagged, copied, {"tags": "audit"}, {}):
        put_point(repository, origin=origin)
    scheme = OnePolicy(Terms(RetentionPolicy(tags=frozenset({"audit"})), UTC))
    assert [each.keep for each in judge(repository, scheme)] == [True, True, False, True]


# --- what does not open


def test_a_point_that_does_not_open_is_kept_and_takes_no_place(repository: Repository, root: Path) -> None:
    points = [put_point(repository) for _ in range(4)]
    spoil(root, "points", points[3].id)
    judged = judge(repository, TWO)
    assert fates(judged) == [(points[0].id, False), *((point.id, True) for point in points[1:])]
    assert judged[-1].vm_name == "web01"
    assert judged[-1].time is None
    expire(repository, judged)
    assert ids(repository.points.all()) == ids(points[1:3])


def test_a_point_that_does_not_open_is_forgotten_by_its_full_id(repository: Repository, root: Path) -> None:
    point = put_point(repository)
    spoil(root, "points", point.id)
    with pytest.raises(NotFound):
        named(repository, [point.id[:12]], last_too=True)
    (broken,) = named(repository, [point.id], last_too=False)
    assert str(broken) == f"point {point.id}, which does not open"
    forget(repository, [broken])
    assert repository.points.survey() == ([], {})


@pytest.mark.parametrize("folder", ["marks", "sweeps"])
def test_nothing_expires_while_a_mark_or_a_sweep_does_not_open(repository: Repository, root: Path, folder: str) -> None:
    points = [put_point(repository) for _ in range(4)]
    pin(repository, points[0].id, "audit")
    forget(repository, named(repository, [points[1].id], last_too=False))
    collect(repository)
    spoil(root, folder)
    with opened(root) as fresh, pytest.raises(IntegrityError):
        expire(fresh, judge(fresh, LAST))
    assert len(list((root / "points").rglob("?" * 32))) == 4  # one folder, three points


def test_a_point_that_is_known_to_be_damaged_stands_in_for_no_whole_one(
    repository: Repository, workers: SpanWorkers
) -> None:
    points = [back_up(repository, Memory(noise(seed, 1 << 20)), workers) for seed in (1, 2, 3)]
    assert suspects(repository, points) == frozenset()
    harmed = repository.restore_point(points[2]).map(points[2].disks[0])
    (place,) = repository.store.index.look_up([ChunkId(harmed.span(0).ids[0].tobytes())])
    assert place is not None
    repository.marks.damage(place.pack, frozenset([place.slot]), "a bit turned over")
    repository.refresh()
    assert suspects(repository, points) == {points[2].id}
    judged = judge(repository, LAST, damaged=partial(suspects, repository))
    assert fates(judged) == [(points[0].id, False), (points[1].id, True), (points[2].id, True)]
    assert judged[1].reasons == ("last 1 of 1, among the undamaged",)


# --- meanwhile


def test_what_is_pinned_after_it_was_judged_stays(repository: Repository) -> None:
    points = [put_point(repository) for _ in range(3)]
    judged = judge(repository, LAST)
    pin(repository, points[0].id, "audit")
    expire(repository, judged)
    assert repository.points.all() == [points[0], points[2]]


def test_what_is_pinned_while_it_is_being_forgotten_stays(repository: Repository, root: Path) -> None:
    """The pin is put after the last look at pins: it outweighs the mark, and the collector spares the point."""
    points = [put_point(repository) for _ in range(2)]
    repository.marks.forget(points[0].id, "expired")
    pin(repository, points[0].id, "audit")
    collect(repository)
    with opened(root) as fresh:
        assert fresh.points.all() == points


def test_a_point_that_was_forgotten_comes_back_with_a_pin_and_goes_without_it(repository: Repository) -> None:
    points = [put_point(repository) for _ in range(2)]
    forget(repository, named(repository, [points[0].id], last_too=False))
    assert repository.points.all() == points[1:]
    pin(repository, points[0].id[:12], "audit")
    assert repository.points.all() == points
    assert unpin(repository, points[0].id)[1]
    assert repository.points.all() == points[1:]
    with pytest.raises(NotFound):
        unpin(repository, points[0].id)


def test_a_pin_that_a_collector_missed_when_it_condemned_is_seen_before_it_sweeps(
    repository: Repository, root: Path, workers: SpanWorkers
) -> None:
    gone = back_up(repository, Memory(noise(1, 1 << 20)), workers, name="gone")
    back_up(repository, Memory(noise(2, 1 << 20)), workers, name="gone")
    repository.marks.forget(gone.id, "by hand")
    verdict = Collector(repository, threading.Event()).propose().verdict
    assert gone.id in verdict.points
    pin(repository, gone.id, "audit")
    name = "condemned/00000001"
    repository.backend.put(name, seal_json(repository.keyring, ObjectType.CONDEMNED, name, verdict.to_json()))
    collect(repository)
    with opened(root) as fresh:
        assert content(fresh, gone) == noise(1, 1 << 20)
        assert gone.id in ids(fresh.points.all())


def test_a_pin_that_comes_too_late_says_so(repository: Repository) -> None:
    points = [put_point(repository) for _ in range(2)]
    forget(repository, named(repository, [points[0].id], last_too=False))
    name = "condemned/00000001"
    verdict = Collector(repository, threading.Event()).propose().verdict
    repository.backend.put(name, seal_json(repository.keyring, ObjectType.CONDEMNED, name, verdict.to_json()))
    with pytest.raises(Conflict, match="the pin may have come too late"):
        pin(repository, points[0].id, "audit")


def test_two_that_expire_at_once_do_what_one_would(root: Path) -> None:
    with opened(root) as one, opened(root) as other:
        points = [put_point(one) for _ in range(4)]
        judged = judge(one, TWO), judge(other, TWO)
        expire(one, judged[0])
        expire(other, judged[1])
        assert one.points.all() == other.points.all() == points[2:]


def test_one_that_was_interrupted_is_taken_up_by_the_next(repository: Repository, root: Path) -> None:
    points = [put_point(repository) for _ in range(4)]
    put, left = repository.backend.put, [1]

    def failing(name: str, data: bytes | bytearray | memoryview) -> None:
        if not left:
            raise NoSpace("the disk is full")
        left.pop()
        put(name, data)

    repository.backend.put = failing  # type: ignore[method-assign]  # the second mark finds the disk full
    with pytest.raises(BackendError):
        expire(repository, judge(repository, TWO))
    with opened(root) as fresh:
        assert fresh.points.all() == points[1:]
        expire(fresh, judge(fresh, TWO))
        assert fresh.points.all() == points[2:]


def test_a_session_goes_on_whose_base_was_forgotten_and_collected(root: Path, workers: SpanWorkers) -> None:
    disk = Memory(noise(1, 1 << 20))
    with opened(root) as repository, opened(root) as other:
        back_up(repository, disk, workers)
        second = back_up(repository, disk, workers)
        with other.session(second.vm_id) as (_, base):
            assert base is not None
            assert base.manifest.id == second.id
            third = back_up(repository, disk, workers)
            expire(repository, judge(repository, LAST))
            Collector(repository, threading.Event(), wait=False).run()
            found = base.disk()
            buffer = bytearray(found.size_bytes)
            found.read_into(0, memoryview(buffer))
            assert buffer == disk.content
        assert content(repository, third) == disk.content


# --- by name


def test_the_last_point_of_a_vm_is_forgotten_only_when_it_is_meant(repository: Repository) -> None:
    points = [put_point(repository) for _ in range(2)]
    for texts in (["web01@latest", points[0].id[:12]], [points[0].id, points[1].id[:31]]):
        with pytest.raises(Conflict, match="would have no restore point left") as refused:
            named(repository, texts, last_too=False)
        assert "--last" in str(refused.value.hint)
    assert len(named(repository, ["web01@latest"], last_too=False)) == 1
    assert len(named(repository, [points[0].id, points[1].id], last_too=False)) == 2
    assert len(named(repository, ["web01@latest", points[0].id[:12]], last_too=True)) == 2
    assert len(named(repository, [points[0].id, points[0].id[:12]], last_too=False)) == 1


def test_a_point_that_does_not_open_is_no_point_that_is_left(repository: Repository, root: Path) -> None:
    points = [put_point(repository) for _ in range(2)]
    spoil(root, "points", points[0].id)
    with pytest.raises(Conflict, match="would have no restore point left"):
        named(repository, [points[1].id[:12]], last_too=False)


def test_a_pinned_point_is_not_forgotten(repository: Repository) -> None:
    points = [put_point(repository) for _ in range(2)]
    pin(repository, points[0].id, "audit")
    with pytest.raises(Conflict, match="is pinned: audit"):
        named(repository, [points[0].id], last_too=True)


def test_a_pin_that_does_not_open_hides_no_point_and_lets_none_be_collected(
    repository: Repository, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pinned, gone = put_point(repository), put_point(repository)
    forget(repository, [Named.of(pinned), Named.of(gone)])
    mark = repository.marks.pin(pinned.id, "for the auditors")
    assert ids(repository.points.all()) == [pinned.id]
    spoil(root, "marks", f"pin-{mark.id}")
    with opened(root) as again:
        assert pinned.id in ids(again.points.all())
        assert "may be pinned" in caplog.text
        with pytest.raises(IntegrityError):
            Collector(again, threading.Event()).propose()
        with pytest.raises(IntegrityError):
            Collector(again, threading.Event()).run()
        again.marks.unpin(mark)
        assert ids(again.points.all()) == [], "taken off by its name, it says nothing any more"
        collect(again)
        assert not list((root / "marks").iterdir())
