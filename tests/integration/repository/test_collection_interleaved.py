"""Real writers, readers and collectors, each stopped before every put, list and delete, in any order.

What the model promises (tests/support/collector_model.py) the code must keep: after every single step each point that
counts reads back bit for bit, and so does what is being read.
"""

import os
import shutil
import tempfile
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from offhost.backend.local import LocalBackend
from offhost.backup.copy import DiskCopy, map_of, settle
from offhost.chunking.workers import SpanWorkers
from offhost.errors import BackendError, Conflict, NotFound, OffhostError, SessionFenced
from offhost.extents import Extent, ExtentMap
from offhost.ids import DiskKey, image_id
from offhost.repository.collection import usage
from offhost.repository.collection.collect import PATIENCE_S, Collector
from offhost.repository.lifetime.pinning import pin
from offhost.repository.points.manifest import Manifest, PointDisk
from offhost.repository.repository import Repository
from offhost.repository.verification.verify import verify
from support.gatehouse import GatedBackend, Gatehouse, Killed
from support.repositories import Memory, chunking_of, content, make, noise, opened

CAMPAIGN = os.environ.get("OFFHOST_FAULTS") == "long"
BLOCK = 64 << 10
BLOCKS = 4
PROCESSES = ("one", "two", "three")
VMS = ("a", "b")
TURNS = ("list sessions/", "put sweeps/", "put points/", "delete packs/", "nothing")
"""What one process does when it matters most how far the others are."""

recipes = st.lists(st.integers(0, 3), min_size=BLOCKS, max_size=BLOCKS).map(tuple)


def cook(recipe: tuple[int, ...]) -> bytes:
    return b"".join(noise(seed, BLOCK) if seed else bytes(BLOCK) for seed in recipe)


def _process(repository: Repository) -> str:
    assert isinstance(repository.backend, GatedBackend)
    return repository.backend.process


class Clock:
    """The time of all processes, which passes when it is told to."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds


class Interleaved(RuleBasedStateMachine):
    """Processes that come and go over one repository."""

    @initialize(first=recipes, second=recipes)
    def begin(self, first: tuple[int, ...], second: tuple[int, ...]) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="offhost-interleaved-"))
        self.root = make(self.folder / "repository")
        self.gatehouse, self.clock = Gatehouse(), Clock()
        self.workers = SpanWorkers(2)
        with opened(self.root) as repository:
            self.keyring = repository.keyring
        self.watcher = Repository(LocalBackend(self.root), self.keyring, clock=self.clock)
        self.processes: dict[str, Repository] = {}
        self.generation = dict.fromkeys(PROCESSES, 0)
        self.threads: list[threading.Thread] = []
        self.recipes: dict[str, tuple[int, ...]] = {}
        self.committed: set[str] = set()
        self.forgotten: set[str] = set()
        self.pinned: set[str] = set()
        self.looked_at = 0
        self.failures: list[BaseException] = []
        self.stop = threading.Event()
        self.small = pytest.MonkeyPatch()
        # these packs have some hundred KiB: small ones are joined, too
        self.small.setattr(usage, "PACK_LIMIT_BYTES", 2 * BLOCK)
        self.small.setattr(usage, "SMALL_PACK_BYTES", 2 * BLOCK)
        self._back_up(self.watcher, "a", first)
        self._back_up(self._watcher(), "a", second)
        self._forget(self.watcher.points.all()[0])

    def _watcher(self) -> Repository:
        """Somebody outside, who is never stopped."""
        self.watcher.refresh()
        return self.watcher

    def _repository(self, name: str) -> Repository:
        process = f"{name}-{self.generation[name]}"
        if process not in self.processes:
            backend = GatedBackend(self.root, self.gatehouse, process)
            self.processes[process] = Repository(backend, self.keyring, clock=self.clock)
            backend.gated = True
        return self.processes[process]

    def _start(self, work: Callable[[], None]) -> None:
        def run() -> None:
            try:
                work()
            except Killed:
                pass
            except BaseException as error:  # noqa: BLE001 - told by the invariant
                self.failures.append(error)
            finally:
                self.gatehouse.happened()

        thread = threading.Thread(target=run, daemon=True)
        self.threads.append(thread)
        thread.start()

    @rule(process=st.sampled_from(PROCESSES), vm=st.sampled_from(VMS), recipe=recipes)
    def a_backup_begins(self, process: str, vm: str, recipe: tuple[int, ...]) -> None:
        if len(self._living()) < 5:
            self._start(partial(self._back_up, self._repository(process), vm, recipe))

    def _back_up(self, repository: Repository, vm: str, recipe: tuple[int, ...]) -> None:
        session_id = ""
        try:
            with repository.session(image_id(vm)) as (session, base):
                session_id = session.id
                self.recipes[session.id] = recipe
                known = map_of(base, DiskKey("disk0"))
                areas = None
                if base and known:
                    before = self.recipes[base.manifest.id]
                    changed = (at for at in range(BLOCKS) if before[at] != recipe[at])
                    areas = ExtentMap(Extent(at * BLOCK, (at + 1) * BLOCK) for at in changed)
                copy = DiskCopy(
                    Memory(cook(recipe)), session, chunking_of(repository), self.workers, base=known, areas=areas
                )
                copy.run(self.stop)
                point = Manifest(
                    id=session.id,
                    vm_id=image_id(vm),
                    vm_name=vm,
                    sequence=base.manifest.sequence + 1 if base else 1,
                    predecessor=None,
                    time=self.clock.now(),
                    kind="full",
                    consistency="crash",
                    disks=(PointDisk(DiskKey("disk0"), "disk", copy.finish()),),
                )
                settle(session, [lambda: copy.run(self.stop)], self.stop)
                session.commit(point)
                self.committed.add(session.id)
        except SessionFenced:
            pass
        except OffhostError as error:
            if not isinstance(error, BackendError) and not self._fenced(session_id):
                raise

    def _fenced(self, session_id: str) -> bool:
        """Whether a session was ended by a collector: it may then miss anything that it built on."""
        found = list((self.root / "points").rglob(session_id)) if session_id else []
        return bool(found) and session_id not in {point.id for point in self._watcher().points.all()}

    @rule(process=st.sampled_from(PROCESSES))
    def a_collection_begins(self, process: str) -> None:
        if len(self._living()) < 5:
            self._start(partial(self._collect, self._repository(process)))

    def _collect(self, repository: Repository, patience_s: float = PATIENCE_S) -> None:
        Collector(repository, self.stop, look_again_s=0.001, patience_s=patience_s).run()

    @rule(process=st.sampled_from(PROCESSES), which=st.integers(0, 5))
    def a_restore_begins(self, process: str, which: int) -> None:
        points = self._watcher().points.all()
        if points and len(self._living()) < 5:
            self._start(partial(self._restore, self._repository(process), points[which % len(points)]))

    def _restore(self, repository: Repository, point: Manifest) -> None:
        try:
            with repository.reading(point) as held:
                self.gatehouse.enter(_process(repository), "read")
                disk = held.disk()
                buffer = bytearray(disk.size_bytes)
                disk.read_into(0, memoryview(buffer))
                assert bytes(buffer) == cook(self.recipes[point.id])
        except Conflict:
            pass

    @rule(which=st.integers(0, 5))
    def a_point_is_forgotten(self, which: int) -> None:
        points = self._watcher().points.all()
        if points:
            self._forget(points[which % len(points)])

    def _forget(self, point: Manifest) -> None:
        self.watcher.marks.forget(point.id, "by hand")
        self.forgotten.add(point.id)

    @rule(process=st.sampled_from(PROCESSES), which=st.integers(0, 5))
    def a_point_is_pinned(self, process: str, which: int) -> None:
        """One that was forgotten, where there is any."""
        points = sorted(self.forgotten - self.pinned) or sorted(self.committed - self.pinned)
        if points and len(self._living()) < 5:
            self._start(partial(self._pin, self._repository(process), points[which % len(points)]))

    def _pin(self, repository: Repository, point: str) -> None:
        try:
            pin(repository, point, "by hand")
            self.pinned.add(point)
        except (Conflict, NotFound):  # it is being collected, or gone
            pass

    @rule(which=st.integers(0, 1 << 16), count=st.integers(1, 12))
    def something_takes_effect(self, which: int, count: int) -> None:
        """One call after the other of the same process, as long as it has any."""
        process = self._somebody(which)
        for _ in range(count):
            if calls := self._calls(process):
                self.gatehouse.let_through(calls[which % len(calls)])

    @rule(which=st.integers(0, 1 << 16), until=st.sampled_from(TURNS))
    def somebody_goes_on(self, which: int, until: str) -> None:
        """All that a process does, to its end or to a call on which much depends."""
        process = self._somebody(which)
        seen: set[str] = set()
        while calls := self._calls(process):
            self.gatehouse.let_through(calls[0])
            waiting = {call.partition(" #")[0] for _, call in self._calls(process)}
            if any(until in call for call in waiting) or waiting & seen & {"list sessions/"}:
                break  # there, or waiting for somebody
            seen |= waiting

    def _somebody(self, which: int) -> str:
        waiting = sorted({process for process, _ in self._calls()})
        return waiting[which % len(waiting)] if waiting else ""

    @rule(process=st.sampled_from(PROCESSES))
    def a_process_dies(self, process: str) -> None:
        self.gatehouse.kill(f"{process}-{self.generation[process]}")
        self.generation[process] += 1

    @rule()
    def time_passes(self) -> None:
        self.clock.seconds += 4000.0 if self.clock.seconds < 70_000 else 0.0

    def _calls(self, process: str = "") -> list[tuple[str, str]]:
        return [call for call in self.gatehouse.calls_of() if process in ("", call[0])]

    def _living(self) -> list[threading.Thread]:
        return [thread for thread in self.threads if thread.is_alive()]

    @invariant()
    def every_point_reads_back(self) -> None:
        """Looked at after each call that took effect."""
        if self.looked_at == self.gatehouse.passed:
            return
        self.looked_at = self.gatehouse.passed
        assert not self.failures, self.failures
        remaining = self.committed - (self.forgotten - self.pinned)
        watcher = self._watcher()
        visible = watcher.points.all()
        for point in visible:
            assert content(watcher, point) == cook(self.recipes[point.id])
        assert remaining <= {point.id for point in visible}

    def teardown(self) -> None:
        if not hasattr(self, "folder"):
            return
        try:
            while calls := self._calls():
                self.clock.seconds += 100
                self.gatehouse.let_through(calls[0])
            self.gatehouse.open()
            for thread in self.threads:
                thread.join(10)
            self.every_point_reads_back()
            for _ in range(2):  # by now whoever has not ended was killed, and time stands still for whom is waited
                self.clock.seconds += 200_000
                self._collect(self._watcher(), patience_s=-1)
            self.every_point_reads_back()
            report = verify(self._watcher(), data=True, progress=lambda *_: None, stop=threading.Event())
            assert not report.damage, report.damage
        finally:
            self.stop.set()
            self.gatehouse.open()
            for process in list(self.processes):
                self.gatehouse.kill(process)
            for thread in self.threads:
                thread.join(10)
            self.small.undo()
            self.workers.close()
            shutil.rmtree(self.folder)


Interleaved.TestCase.settings = settings(
    max_examples=400 if CAMPAIGN else 15,
    stateful_step_count=60 if CAMPAIGN else 40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestInterleaved = Interleaved.TestCase
