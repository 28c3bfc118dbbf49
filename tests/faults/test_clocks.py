"""A clock that jumps by years, between backups and within one: order, collection and reading do not depend on it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from threading import Event

import pytest

from faults.campaign import Tally
from faults.story import World, assert_unharmed, forgot
from offhost.backend.local import LocalBackend
from offhost.clock import SystemClock
from offhost.errors import OffhostError
from offhost.ids import image_id
from offhost.repository.collection.collect import Collector
from offhost.repository.repository import Repository
from support.repositories import PASSPHRASE, noise

pytestmark = pytest.mark.slow

JUMPS = [timedelta(days=-365 * 50), timedelta(days=365 * 70), timedelta(hours=-1), timedelta(0)]
Fresh = Callable[[], World]


@dataclass
class JumpingClock:
    """Wall time with an offset that changes; monotonic time stays what it is."""

    offset: timedelta = timedelta(0)

    def now(self) -> datetime:
        return SystemClock().now() + self.offset

    def monotonic(self) -> float:
        return SystemClock().monotonic()


@contextmanager
def at(world: World, clock: JumpingClock) -> Iterator[Repository]:
    repository = Repository(LocalBackend(world.root), world.keyring, clock=clock, unlock=PASSPHRASE)
    try:
        repository.refresh()
        yield repository
    finally:
        repository.close()


def test_points_keep_their_order_whatever_the_clock_says(fresh: Fresh, tally: Tally) -> None:
    world, clock, made = fresh(), JumpingClock(), []
    with at(world, clock) as repository:
        for seed, clock.offset in enumerate(JUMPS):
            world.store(repository, "moody", noise(seed, 50_000))
            made.append(next(reversed(world.committed)))
            assert repository.points.find("moody@latest").id == made[-1]
        assert [point.id for point in repository.points.of(image_id("moody"))] == made
    assert_unharmed(world)
    tally.count("the clock jumps", len(JUMPS))


@pytest.mark.parametrize("jump", JUMPS, ids=str)
def test_a_clock_that_jumps_within_a_session_harms_nothing(jump: timedelta, fresh: Fresh, tally: Tally) -> None:
    world, clock = fresh(), JumpingClock()
    with at(world, clock) as repository:
        point = repository.points.find("web@latest")
        with repository.reading(point) as restore, repository.session(image_id("web")) as (session, _):
            clock.offset = jump
            forgot(world, repository)
            collected = Collector(repository, Event(), wait=False).run()
            assert len(collected.waiting_for) == 1, "a writer that lives is waited for, whatever the clock says"
            assert not collected.fenced
            buffer = bytearray(restore.disk().size_bytes)
            restore.disk().read_into(0, memoryview(buffer))
            assert bytes(buffer) == world.committed[point.id]
            del session
        done = Collector(repository, Event()).run()
        assert done.swept.points == 2
    assert_unharmed(world)
    tally.count("the clock jumps within a session", 1)


@pytest.mark.parametrize("jump", JUMPS, ids=str)
def test_a_point_that_is_read_is_spared_or_the_reader_told(jump: timedelta, fresh: Fresh, tally: Tally) -> None:
    world, clock = fresh(), JumpingClock()
    with at(world, JumpingClock()) as reader, at(world, clock) as collector:
        point = reader.points.find("db@latest")
        with reader.reading(point) as restore:
            clock.offset = jump
            forgot(world, collector)
            Collector(collector, Event()).run()
            with suppress(OffhostError):  # what is being read may be gone, by a clock that has left it behind
                disk = restore.disk()
                buffer = bytearray(disk.size_bytes)
                disk.read_into(0, memoryview(buffer))
                assert bytes(buffer) == world.committed[point.id]
        world.store(collector, "db", noise(5, 9999))
    assert_unharmed(world)
    tally.count("the clock jumps while a point is read", 1)
