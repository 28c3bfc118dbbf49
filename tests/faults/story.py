"""What is done to a small repository while faults are injected, and what must hold of it afterwards.

Owns: the repository the campaigns begin with, the record of what was committed with its bytes, the invariants.
Does not own: which faults are injected (the tests).
"""

import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from offhost.backend.contract import Backend
from offhost.backup.copy import DiskCopy
from offhost.chunking.workers import SpanWorkers
from offhost.errors import OffhostError
from offhost.extents import Extent, ExtentMap
from offhost.ids import image_id
from offhost.repository.access import Access
from offhost.repository.chunks.consolidation import consolidate_runs
from offhost.repository.collection.collect import Collector
from offhost.repository.keys.credentials import Passphrase
from offhost.repository.keys.keyring import Keyring
from offhost.repository.repository import Repository
from offhost.repository.verification.rebuild import rebuild
from offhost.repository.verification.verify import Reading, verify
from support.repositories import CHEAP, PASSPHRASE, Memory, back_up, chunking_of, content, make, noise, opened

DISK_BYTES = 300_000
PATIENCE_S = 60
"""How long a step may take that meets a fault; longer is a hang."""


class Violation(AssertionError):
    """A promise of the repository was broken."""


@dataclass
class World:
    """A repository in a directory, and what it must hold: the bytes of each committed point."""

    root: Path
    keyring: Keyring
    workers: SpanWorkers
    committed: dict[str, bytes] = field(default_factory=dict)
    perhaps: list[bytes] = field(default_factory=list)
    """What was being committed when an error came: a point of it may exist, and if so it is whole."""
    gone: set[str] = field(default_factory=set)
    """Points that were forgotten, or may have been: they may be missing, and must not be wrong."""
    noted: Callable[[str], object] = lambda _: None
    """Told the id of each point once its commit has returned."""

    def copied(self, root: Path) -> "World":
        """The same in another directory."""
        shutil.copytree(self.root, root)
        return World(root, self.keyring, self.workers, dict(self.committed), list(self.perhaps), set(self.gone))

    @contextmanager
    def on(self, backend: Backend) -> Iterator[Repository]:
        """The repository opened over a backend that may fail; closing it never does."""
        own = Keyring(self.keyring.repository_id, self.keyring.id_key, dict(self.keyring.epochs))  # it learns
        repository = Repository(backend, own, unlock=PASSPHRASE)
        try:
            repository.refresh()
            yield repository
        finally:
            repository.close()

    def store(self, repository: Repository, name: str, disk: bytes, areas: ExtentMap | None = None) -> None:
        """Commit a point, and remember that it was."""
        self.perhaps.append(disk)
        point = back_up(repository, Memory(disk), self.workers, name=name, areas=areas)
        self.committed[point.id] = disk
        self.noted(point.id)


def prepared(root: Path, workers: SpanWorkers) -> World:
    """VMs that share content; one has an incremental, and one a first point that alone needs most of a pack."""
    make(root)
    with opened(root) as repository:
        world = World(root, repository.keyring, workers)
        world.store(repository, "web", first_disk())
        world.store(repository, "web", *second_disk())
        world.store(repository, "db", first_disk()[: DISK_BYTES // 2] + noise(3, DISK_BYTES // 2))
        world.store(repository, "shrunk", noise(10, 200_000))
        world.store(repository, "shrunk", noise(10, 200_000)[:40_000])
    world.perhaps.clear()
    return world


def first_disk() -> bytes:
    """Content, a hole and a short last page."""
    return noise(1, DISK_BYTES - 50_123) + bytes(50_000) + noise(2, 123)


def second_disk() -> tuple[bytes, ExtentMap]:
    """The first one with a change, and where."""
    return _changed(first_disk(), 100_000, 4)


def third_disk() -> tuple[bytes, ExtentMap]:
    """The second one with a change, and where."""
    return _changed(second_disk()[0], 20_000, 5)


def _changed(before: bytes, at: int, seed: int) -> tuple[bytes, ExtentMap]:
    disk = bytearray(before)
    disk[at : at + 40_000] = noise(seed, 40_000)
    return bytes(disk), ExtentMap([Extent(at, at + 40_000)])


Step = Callable[[World, Repository], None]


def two_sessions(world: World, repository: Repository) -> None:
    """An incremental and a full backup at once, which share content that nobody has stored yet."""
    disk, areas = third_disk()
    steps = [
        lambda: world.store(repository, "web", disk, areas),
        lambda: world.store(repository, "mail", disk[20_000:150_000] + noise(6, 100_000)),
    ]
    at_once(steps)


def aborted(world: World, repository: Repository) -> None:
    """A session that ends without a point."""
    with repository.session(image_id("web")) as (session, _):
        DiskCopy(Memory(noise(7, 100_000)), session, chunking_of(repository), world.workers).run(threading.Event())


def restored(world: World, repository: Repository) -> None:
    """Every point that is listed, read with a reader's session: right bytes or an error."""
    for point in repository.points.all():
        with repository.reading(point) as restore:
            disk = restore.disk()
            buffer = bytearray(disk.size_bytes)
            disk.read_into(0, memoryview(buffer))
        if bytes(buffer) not in (world.committed.get(point.id), *world.perhaps):
            raise Violation(f"point {point.id} read back wrong while faults were injected")


def verified(world: World, repository: Repository) -> None:
    """A verification; what it finds while reads fail is its own to say."""
    verify(repository, data=True, stop=threading.Event())


def forgot(world: World, repository: Repository) -> None:
    """A VM's only point and another's first are not wanted any more."""
    for point in repository.points.all():
        if point.vm_name == "db" or (point.vm_name, point.sequence) == ("shrunk", 1):
            world.gone.add(point.id)
            repository.marks.forget(point.id, "by hand")


def collected(world: World, repository: Repository) -> None:
    """A collection, which fences writers that have failed without saying so."""
    Collector(repository, threading.Event(), patience_s=0.2, look_again_s=0.02).run()


def collected_beside_backups(world: World, repository: Repository) -> None:
    """A collection while backups run, one of them of what is being collected."""
    disk, areas = third_disk()
    at_once(
        [
            lambda: Collector(repository, threading.Event(), patience_s=5, look_again_s=0.02).run(),
            lambda: world.store(repository, "web", disk, areas),
            lambda: world.store(repository, "db", noise(3, DISK_BYTES // 2) + noise(11, 50_000)),
        ]
    )


def consolidated(world: World, repository: Repository) -> None:
    """Few index runs in place of many."""
    consolidate_runs(repository.store)


def rebuilt(world: World, repository: Repository) -> None:
    """The index made anew."""
    rebuild(repository, stop=threading.Event())


def keys_changed(world: World, repository: Repository) -> None:
    """A way in is added and removed, then a new key epoch begins, and points are written with it."""
    access = Access(repository.backend, PASSPHRASE)
    access.remove(access.add(Passphrase("another"), cost=CHEAP))
    access.rotate(access.rotation([]), CHEAP)
    repository.refresh()
    world.store(repository, "web", noise(12, 60_000))


WRITING: tuple[Step, ...] = (two_sessions, aborted, restored, verified)
COLLECTING: tuple[Step, ...] = (forgot, collected_beside_backups, collected, restored)
KEEPING: tuple[Step, ...] = (consolidated, keys_changed, rebuilt, restored)
STORIES: dict[str, tuple[Step, ...]] = {"writing": WRITING, "collecting": COLLECTING, "keeping": KEEPING}


def attempt(world: World, backend: Backend, steps: tuple[Step, ...]) -> None:
    """Do the steps over a backend that may fail. Each may end in an error that offhost declares, and in no other."""
    with suppress(OffhostError), world.on(backend) as repository:
        for step in steps:
            with suppress(OffhostError):
                step(world, repository)


def at_once(steps: Sequence[Callable[[], object]]) -> None:
    """Run steps in threads. Raises: the first error that is not offhost's; else the first of all; Violation on a hang.

    A thread that hangs is left behind.
    """
    pool = ThreadPoolExecutor(len(steps))
    running = [pool.submit(step) for step in steps]
    pool.shutdown(wait=False)
    if wait(running, PATIENCE_S).not_done:
        raise Violation("a backup hangs")
    errors = [error for future in running if (error := future.exception())]
    for error in sorted(errors, key=lambda error: isinstance(error, OffhostError)):
        raise error


def assert_unharmed(world: World) -> None:
    """The invariants: earlier points whole, no false point, verification clean, and usable at once."""
    with opened(world.root) as repository:
        _assert_points(world, repository)
        fresh = noise(8, 50_000) + first_disk()[:100_000]
        world.store(repository, "web", fresh)
        world.store(repository, "new", fresh)
    with opened(world.root) as repository:
        _assert_points(world, repository)
        collected(world, repository)
        _assert_points(world, repository)
        report = verify(repository, reading=Reading(anew=True), stop=threading.Event())
        if report.damage:
            raise Violation(f"verification finds {report.damage}")


def _assert_points(world: World, repository: Repository) -> None:
    points, damaged = repository.points.read()
    if damaged:
        raise Violation(f"a point does not open: {damaged}")
    found: dict[str, bytes] = {point.id: content(repository, point) for point in points}
    for sid, wanted in world.committed.items():
        if sid not in found and sid not in world.gone:
            raise Violation(f"point {sid}, which was committed, is not there")
        if sid in found and found[sid] != wanted:
            raise Violation(f"point {sid} reads back wrong")
    for sid, data in found.items():
        if sid not in world.committed and data not in world.perhaps:
            raise Violation(f"point {sid} is of no backup that was ever made")
