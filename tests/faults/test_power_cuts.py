"""The power fails at any moment: what was committed is there, and nothing else is."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from faults.campaign import LONG, Tally, some
from faults.powercut import ABSENT, Disk, Effect, Recorder, State, cuts
from faults.story import STORIES, Step, World, assert_unharmed, attempt
from offhost.backend.local import LocalBackend
from offhost.errors import OffhostError
from offhost.repository.repository import create
from support.repositories import CHEAP, PASSPHRASE, noise, opened

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

DRAWS = 3
Fresh = Callable[[], World]


def recorded(world: World, steps: tuple[Step, ...], failing_flush: int | None = None) -> Recorder:
    """The steps done, and what they did to the file system."""
    recorder = Recorder(world.root, failing_flush)
    world.noted = recorder.note
    with recorder.recording():
        attempt(world, LocalBackend(world.root), steps)
    return recorder


def check(before: World, after: World, states: Sequence[tuple[Disk, State, int]], effects: list[Effect]) -> int:
    """What must hold in states that a power cut may leave; how many were checked."""
    for disk, state, known in states:
        root = before.root.parent / "after-the-cut"
        disk.lay_out(state, root)
        returned = {str(effect.path) for effect in effects[:known] if effect.what == "note"}
        committed = before.committed | {sid: after.committed[sid] for sid in returned}
        assert_unharmed(World(root, before.keyring, before.workers, committed, list(after.perhaps), set(after.gone)))
        shutil.rmtree(root)
    return len(states)


@pytest.mark.parametrize("story", STORIES)
def test_a_power_cut_at_any_moment_loses_no_committed_point(
    story: str, template: World, fresh: Fresh, tally: Tally
) -> None:
    world = fresh()
    recorder = recorded(world, STORIES[story])
    states = some(list(cuts(recorder.effects, template.root, DRAWS if LONG else 1)), 2)
    count = check(template, world, states, recorder.effects)
    tally.count(f"{story}: power cut", count, count)


@pytest.mark.parametrize("story", STORIES)
def test_what_a_failed_flush_lost_is_written_anew(story: str, template: World, fresh: Fresh, tally: Tally) -> None:
    flushes = recorded(fresh(), STORIES[story]).flushes
    for failing in some(range(flushes), 1):
        world = fresh()
        recorder = recorded(world, STORIES[story], failing)
        assert_unharmed_now(world)
        assert_nothing_seen_was_taken_back(recorder.effects, collected=story == "collecting")
        failed = next((at for at, effect in enumerate(recorder.effects) if effect.what == "flush failed"), 0)
        later = [cut for cut in cuts(recorder.effects, template.root, 2) if cut[2] > failed]
        count = check(template, world, later[:: -(-len(later) // (8 if LONG else 2))], recorder.effects)
        tally.count(f"{story}: failed flush, then power cut", count + 1, count + 1)


def test_what_another_process_has_put_and_not_flushed_is_not_relied_on(
    template: World, fresh: Fresh, tally: Tally
) -> None:
    """The second one sees the first one's pack while the first has not flushed its name yet, and commits before it."""
    world = fresh()
    recorder = Recorder(world.root)
    world.noted = recorder.note
    disk = noise(20, 100_000)
    others: list[str] = []

    def another(name: str) -> None:
        if name.startswith("packs/") and not others:
            others.append(name)
            with world.on(LocalBackend(world.root)) as repository:
                world.store(repository, "another", disk)

    recorder.after_link = another
    with recorder.recording():
        attempt(world, LocalBackend(world.root), (lambda world, repository: world.store(repository, "one", disk),))
    assert others
    states = list(cuts(recorder.effects, template.root, 1))
    count = check(template, world, some(states, 2), recorder.effects)
    tally.count("power cut, the pack another's", count, count)


def assert_nothing_seen_was_taken_back(effects: Sequence[Effect], *, collected: bool) -> None:
    """Whoever saw a name taken has counted on what was there: none is taken twice, and only a collector frees any."""
    entries = [effect for effect in effects if effect.what == "entry" and not str(effect.path).startswith("tmp/")]
    taken = [effect.path for effect in entries if effect.inode > ABSENT]
    assert len(taken) == len(set(taken))
    freed = {effect.path for effect in entries if effect.inode == ABSENT}
    assert collected or not freed & {path for path in taken if str(path).startswith(("packs/", "points/"))}


def assert_unharmed_now(world: World) -> None:
    """Without a power cut: the process goes on, or another begins."""
    now = World(world.root, world.keyring, world.workers, dict(world.committed), list(world.perhaps), set(world.gone))
    assert_unharmed(now)


def test_a_power_cut_while_a_repository_is_made_leaves_one_that_works_or_none(fast_folder: Path, tally: Tally) -> None:
    before = fast_folder / "before"
    before.mkdir()
    place = fast_folder / "place"
    place.mkdir()
    recorder = Recorder(place)
    with recorder.recording():
        create(place / "repository", PASSPHRASE, cost=CHEAP)
        recorder.note("made")
    states = some(list(cuts(recorder.effects, before, 1)), 15)
    for disk, state, known in states:
        root = fast_folder / "after-the-cut"
        disk.lay_out(state, root)
        try:
            with opened(root / "repository"):
                pass
        except OffhostError:
            assert known < len(recorder.effects), "a repository that was made is there"
        shutil.rmtree(root)
    tally.count("power cut while a repository is made", len(states), len(states))
