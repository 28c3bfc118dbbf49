"""Every interleaving of writers, readers, people who forget points, and collectors, over one chunk.

A model of the protocol in FORMAT.md, "Collection": what is put, listed and deleted, one step at a time, any actor
paused between any two of its steps. Packs are P, the old one; W<i>, what a writer stored anew; R<j>, what a collector
moved. Each holds the one chunk, which a point needs. `Rules` switches off single rules, to see the model find the loss
that each of them prevents.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple


class Rules(NamedTuple):
    """The rules of the protocol; all of them on is the protocol."""

    wait_for_writers: bool = True
    """Writers that are there when the list stands end, or are fenced, before the second look."""
    fence: bool = True
    """Giving up a writer takes its point's name. Otherwise it is merely not waited for any longer."""
    look_again: bool = True
    """The second look decides, not the first."""
    condemned_is_missing: bool = True
    """What is condemned or swept holds nothing for a writer."""
    forget_by_mark: bool = True
    """A forgotten point counts as live until a list names it. Otherwise forgetting takes it away at once."""
    spare_readers: bool = True
    """A point that was being read when the list stood is not swept."""
    readers_look: bool = True
    """A reader refuses a point that is condemned."""
    base_not_condemned: bool = True
    """A writer builds on no point that is condemned, though a pin may have brought it back meanwhile."""
    move_first: bool = True
    """What is moved is durable before the sweep that takes the old copy."""
    one_list_at_a_time: bool = True
    """A list is put only when the one before it was swept."""
    writers_look_back: bool = True
    """A writer whose point was put has been fenced when a sweep names it: its tombstone was there, and is gone."""


_OVER = ("idle", "ended", "committed")


class Writer(NamedTuple):
    at: str = "idle"
    barred: frozenset[str] = frozenset()


class Reader(NamedTuple):
    at: str = "idle"
    point: str = ""


class Pinner(NamedTuple):
    at: str = "idle"


class Collector(NamedTuple):
    at: str = "idle"
    generation: int = 0
    packs: frozenset[str] = frozenset()
    points: frozenset[str] = frozenset()
    awaited: frozenset[int] = frozenset()
    held: frozenset[str] = frozenset()
    seen: frozenset[str] = frozenset()


class List(NamedTuple):
    packs: frozenset[str]
    points: frozenset[str]


class World(NamedTuple):
    packs: frozenset[str]
    points: frozenset[str]
    forgotten: frozenset[str]
    tombs: frozenset[int]
    condemned: tuple[List, ...]
    sweeps: tuple[List | None, ...]
    writers: tuple[Writer, ...]
    readers: tuple[Reader, ...]
    collectors: tuple[Collector, ...]
    pinner: Pinner
    """Somebody who pins the first point, and looks whether that held."""

    @property
    def out_of_sight(self) -> frozenset[str]:
        """The points that are forgotten, and that no pin has brought back."""
        return self.forgotten - ({"p"} if self.pinner.at not in ("idle", "wants") else set())

    def swept(self) -> List:
        done = [sweep for sweep in self.sweeps if sweep]
        return List(
            frozenset().union(*(each.packs for each in done)), frozenset().union(*(each.points for each in done))
        )

    def standing(self) -> List:
        open_lists = [each for each, sweep in zip(self.condemned, self.sweeps, strict=True) if sweep is None]
        return List(
            frozenset().union(*(each.packs for each in open_lists)),
            frozenset().union(*(each.points for each in open_lists)),
        )

    def copies(self) -> frozenset[str]:
        return self.packs - self.swept().packs


Step = tuple[str, World]


ALL_RULES = Rules()


def violation(world: World) -> str | None:
    """What has been lost, None when nothing is."""
    for number, writer in enumerate(world.writers):
        if writer.at == "committed" and f"w{number}" in world.swept().points - world.forgotten:
            return f"writer {number} was told that its point is there"
    if world.copies():
        return None
    if live := world.points - world.forgotten - world.swept().points:
        return f"points {sorted(live)} need a chunk that is nowhere"
    if world.pinner.at == "holds":
        return "the point that is pinned needs a chunk that is nowhere"
    reading = [number for number, reader in enumerate(world.readers) if reader.at == "reading"]
    return f"readers {reading} read a chunk that is nowhere" if reading else None


def steps(world: World, rules: Rules, generations: int) -> Iterator[Step]:
    """Everything that may happen next."""
    for point in world.points - world.forgotten:
        yield f"{point} is forgotten", world._replace(forgotten=world.forgotten | {point})
    for number in range(len(world.writers)):
        yield from _writer(world, number, rules)
    for number in range(len(world.readers)):
        yield from _reader(world, number, rules)
    yield from _pinner(world, rules)
    for number in range(len(world.collectors)):
        yield from _collector(world, number, rules, generations)


def _writer(world: World, number: int, rules: Rules) -> Iterator[Step]:
    writer, name = world.writers[number], f"writer {number}"

    def become(at: str, barred: frozenset[str] = frozenset(), **more: Any) -> World:
        changed = (*world.writers[:number], Writer(at, barred), *world.writers[number + 1 :])
        return world._replace(writers=changed, **more)

    if writer.at == "idle":
        yield f"{name} opens", become("open")
    elif writer.at == "open":
        barred = world.standing().packs | world.swept().packs if rules.condemned_is_missing else frozenset()
        yield f"{name} lists what is condemned", become("chooses", barred)
    elif writer.at == "chooses":
        condemned = world.standing().points if rules.base_not_condemned else frozenset()
        if world.points - world.out_of_sight - world.swept().points - condemned:
            yield f"{name} builds on a point", become("refers", writer.barred)
        if world.packs - writer.barred:
            yield f"{name} finds the chunk", become("refers", writer.barred)
        else:
            yield f"{name} stores the chunk", become("refers", writer.barred, packs=world.packs | {f"W{number}"})
    elif writer.at == "refers":
        if number in world.tombs:
            yield f"{name} is fenced", become("ended")
        else:
            yield f"{name} puts its point", become("looks back", points=world.points | {f"w{number}"})
    elif writer.at == "looks back":
        fenced = rules.writers_look_back and f"w{number}" in world.swept().points - world.forgotten
        yield f"{name} looks back", become("ended" if fenced else "committed")


def _pinner(world: World, rules: Rules) -> Iterator[Step]:
    if world.pinner.at == "wants" and "p" in world.points:
        yield "p is pinned", world._replace(pinner=Pinner("looks"))
    elif world.pinner.at == "looks":
        gone = world.standing().points | world.swept().points if rules.readers_look else frozenset()
        held = "refused" if "p" in gone else "holds"
        yield f"the pin {held}", world._replace(pinner=Pinner(held))


def _reader(world: World, number: int, rules: Rules) -> Iterator[Step]:
    reader, name = world.readers[number], f"reader {number}"

    def become(at: str, point: str = "") -> World:
        changed = (*world.readers[:number], Reader(at, point), *world.readers[number + 1 :])
        return world._replace(readers=changed)

    if reader.at == "idle":
        for point in world.points:
            yield f"{name} opens {point}", become("open", point)
    elif reader.at == "open":
        gone = world.standing().points | world.swept().points if rules.readers_look else frozenset()
        if reader.point in gone:
            yield f"{name} is refused", become("ended")
        else:
            yield f"{name} reads", become("reading", reader.point)
    elif reader.at == "reading":
        yield f"{name} ends", become("ended")


def _collector(world: World, number: int, rules: Rules, generations: int) -> Iterator[Step]:
    collector = world.collectors[number]
    walk = {
        "idle": _looks,
        "condemns": _condemns,
        "lists": _lists_sessions,
        "waits": _waits,
        "looks at packs": _looks_at_packs,
        "looks at points": _looks_at_points,
        "moves": _moves,
        "sweeps": _sweeps,
        "deletes points": _deletes_points,
        "deletes packs": _deletes_packs,
    }
    yield from walk[collector.at](world, number, collector, rules, generations)


def _become(world: World, number: int, collector: Collector, **more: Any) -> World:
    changed = (*world.collectors[:number], collector, *world.collectors[number + 1 :])
    return world._replace(collectors=changed, **more)


def _looks(world: World, number: int, collector: Collector, rules: Rules, generations: int) -> Iterator[Step]:
    name = f"collector {number}"
    standing = [at for at, sweep in enumerate(world.sweeps) if sweep is None]
    if standing and rules.one_list_at_a_time:
        yield f"{name} goes on with list {standing[0]}", _become(world, number, Collector("lists", standing[0]))
    elif len(world.condemned) < generations:
        forgotten = world.out_of_sight & world.points - world.swept().points
        needed = world.points - world.out_of_sight - world.swept().points
        forgotten |= {f"w{number}" for number in world.tombs}
        packs = world.copies() - world.standing().packs
        choices = {packs} if not needed else {frozenset([pack]) for pack in packs} | {packs}
        for choice in choices:
            if choice or forgotten:
                chosen = Collector("condemns", len(world.condemned), choice, forgotten)
                yield f"{name} looks, and finds {sorted(choice)} worth it", _become(world, number, chosen)


def _condemns(world: World, number: int, collector: Collector, rules: Rules, generations: int) -> Iterator[Step]:
    name = f"collector {number}"
    if len(world.condemned) > collector.generation:
        yield f"{name} finds that list taken", _become(world, number, Collector("lists", collector.generation))
        return
    lists = (*world.condemned, List(collector.packs, collector.points))
    follows = collector._replace(at="lists")
    yield (
        f"{name} puts list {collector.generation}",
        _become(world, number, follows, condemned=lists, sweeps=(*world.sweeps, None)),
    )


def _lists_sessions(world: World, number: int, collector: Collector, rules: Rules, generations: int) -> Iterator[Step]:
    open_writers = frozenset(
        at
        for at, writer in enumerate(world.writers)
        if writer.at not in _OVER and at not in world.tombs and f"w{at}" not in world.points | world.swept().points
    )
    held = frozenset(reader.point for reader in world.readers if reader.at in ("open", "reading"))
    held |= {"p"} if world.pinner.at not in ("idle", "wants") else set()
    follows = Collector(
        "waits",
        collector.generation,
        awaited=open_writers if rules.wait_for_writers else frozenset(),
        held=held if rules.spare_readers else frozenset(),
    )
    yield f"collector {number} lists the sessions", _become(world, number, follows)


def _waits(world: World, number: int, collector: Collector, rules: Rules, generations: int) -> Iterator[Step]:
    name = f"collector {number}"
    if not collector.awaited:
        yield f"{name} has waited", _become(world, number, collector._replace(at="looks at packs"))
    for writer in collector.awaited:
        left = collector._replace(awaited=collector.awaited - {writer})
        taken = f"w{writer}" in world.points | world.swept().points or writer in world.tombs
        if world.writers[writer].at in _OVER or taken:
            yield f"{name} sees writer {writer} ended", _become(world, number, left)
        elif rules.fence:
            yield f"{name} fences writer {writer}", _become(world, number, left, tombs=world.tombs | {writer})
        else:
            yield f"{name} gives writer {writer} up", _become(world, number, left)


def _looks_at_packs(world: World, number: int, collector: Collector, rules: Rules, generations: int) -> Iterator[Step]:
    listed = world.condemned[collector.generation].packs
    follows = collector._replace(at="looks at points", seen=world.copies() - listed)
    yield f"collector {number} lists the packs", _become(world, number, follows)


def _looks_at_points(world: World, number: int, collector: Collector, rules: Rules, generations: int) -> Iterator[Step]:
    name, listed = f"collector {number}", world.condemned[collector.generation]
    gone = (listed.points - collector.held) | world.swept().points
    if not rules.forget_by_mark:
        gone |= world.forgotten
    going = collector._replace(points=listed.points - collector.held, packs=listed.packs)
    needed = bool(world.points - gone) and rules.look_again
    if not needed or collector.seen:
        yield f"{name} finds all of it going", _become(world, number, going._replace(at="sweeps"))
        return
    yield f"{name} moves the chunk", _become(world, number, going._replace(at="moves"))
    for kept in listed.packs & world.packs:  # it may not be worth moving, or not read back
        left = going._replace(at="sweeps", packs=listed.packs - {kept})
        yield f"{name} keeps {kept}", _become(world, number, left)


def _moves(world: World, number: int, collector: Collector, rules: Rules, generations: int) -> Iterator[Step]:
    name, listed = f"collector {number}", world.condemned[collector.generation].packs
    if not rules.move_first:
        yield f"{name} has not flushed", _become(world, number, collector._replace(at="sweeps"))
    elif listed & world.copies():
        moved = world.packs | {f"R{number}{collector.generation}"}
        yield f"{name} puts the moved chunk", _become(world, number, collector._replace(at="sweeps"), packs=moved)
    else:
        yield f"{name} finds nothing to move", _become(world, number, Collector())


def _sweeps(world: World, number: int, collector: Collector, rules: Rules, generations: int) -> Iterator[Step]:
    name, at = f"collector {number}", collector.generation
    follows = Collector("deletes points", at)
    if world.sweeps[at] is not None:
        yield f"{name} takes the sweep that is there", _become(world, number, follows)
        return
    sweeps = (*world.sweeps[:at], List(collector.packs, collector.points), *world.sweeps[at + 1 :])
    yield f"{name} puts sweep {at}", _become(world, number, follows, sweeps=sweeps)


def _deletes_points(world: World, number: int, collector: Collector, rules: Rules, generations: int) -> Iterator[Step]:
    named = world.sweeps[collector.generation]
    assert named is not None
    follows = collector._replace(at="deletes packs")
    yield (
        f"collector {number} deletes {sorted(named.points)}",
        _become(
            world,
            number,
            follows,
            points=world.points - named.points,
            tombs=frozenset(tomb for tomb in world.tombs if f"w{tomb}" not in named.points),
        ),
    )


def _deletes_packs(world: World, number: int, collector: Collector, rules: Rules, generations: int) -> Iterator[Step]:
    named = world.sweeps[collector.generation]
    assert named is not None
    yield (
        f"collector {number} deletes {sorted(named.packs)}",
        _become(world, number, Collector(), packs=world.packs - named.packs),
    )


class Outcome(NamedTuple):
    """How many worlds were seen, and the way to the first loss, None when there is none."""

    worlds: int
    loss: list[str] | None


def explore(
    rules: Rules = ALL_RULES,
    *,
    writers: int = 2,
    readers: int = 0,
    collectors: int = 2,
    generations: int = 2,
    pinned: bool = False,
) -> Outcome:
    """Every world that can be reached, breadth first: the way to a loss is the shortest there is."""
    first = World(
        packs=frozenset({"P"}),
        points=frozenset({"p"}),
        forgotten=frozenset(),
        tombs=frozenset(),
        condemned=(),
        sweeps=(),
        writers=(Writer(),) * writers,
        readers=(Reader(),) * readers,
        collectors=(Collector(),) * collectors,
        pinner=Pinner("wants" if pinned else "idle"),
    )
    came: dict[World, tuple[World, str] | None] = {first: None}
    open_worlds = deque([first])
    while open_worlds:
        world = open_worlds.popleft()
        if lost := violation(world):
            return Outcome(len(came), [*_way(came, world), lost])
        for label, after in steps(world, rules, generations):
            if after not in came:
                came[after] = (world, label)
                open_worlds.append(after)
    return Outcome(len(came), None)


def _way(came: dict[World, tuple[World, str] | None], world: World) -> list[str]:
    labels = []
    step = came[world]
    while step:
        labels.append(step[1])
        step = came[step[0]]
    return labels[::-1]
