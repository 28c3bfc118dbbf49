"""Verification finds what is wrong, names whom it harms, remembers what it read, and goes on where it was stopped."""

import shutil
import threading
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from offhost.chunking.workers import SpanWorkers
from offhost.clock import SystemClock
from offhost.errors import AccessDenied, IntegrityError, Stopped, Unavailable
from offhost.repository.chunks.packs import (
    DIRECTORY,
    HEADER_BYTES,
    TAG_BYTES,
    Kind,
    OpenPack,
    PackCipher,
    pack_buffer,
    pack_object,
)
from offhost.repository.objects.sealed import ObjectType, seal_json
from offhost.repository.objects.verified import Ledger, superseded
from offhost.repository.points.manifest import Manifest
from offhost.repository.points.restorepoint import PointDiskReader
from offhost.repository.repository import Repository
from offhost.repository.verification.checking import PackChecker
from offhost.repository.verification.endtoend import verify_point
from offhost.repository.verification.verify import Reading, VerifyReport, verify
from support.damage import chunks_of, flip, pack_path, place_of, rot
from support.repositories import Memory, back_up, noise, opened

SIZE = 300_000


def quick(root: Path) -> VerifyReport:
    with opened(root) as repository:
        return verify(repository, stop=threading.Event())


def whole(root: Path, reading: Reading | None = None) -> VerifyReport:
    with opened(root) as repository:
        return verify(repository, reading=reading or Reading(), stop=threading.Event())


@pytest.fixture
def points(root: Path, workers: SpanWorkers) -> list[Manifest]:
    """Four VMs, each with a pack of its own."""
    with opened(root) as repository:
        return [back_up(repository, Memory(noise(n, SIZE)), workers, name=f"vm{n}") for n in range(4)]


def packs(root: Path) -> list[Path]:
    return sorted(path for path in (root / "packs").rglob("*") if path.is_file())


# ------------------------------------------------------------------------------------------- other objects


@pytest.mark.parametrize(
    ("folder", "kind", "hint"),
    [
        ("sessions", ObjectType.SESSION, "no backup is running"),
        ("condemned", ObjectType.CONDEMNED, "move it away"),
        ("sweeps", ObjectType.SWEEP, "repo gc"),
        ("marks", ObjectType.MARK, "again"),
        ("index", ObjectType.INDEX, "repo rebuild"),
    ],
)
def test_an_object_that_does_not_open_is_named_with_what_to_do(
    root: Path, points: list[Manifest], folder: str, kind: ObjectType, hint: str
) -> None:
    name = {"condemned": "00000001", "sweeps": "00000001", "marks": f"pin-{'a' * 32}"}.get(folder, "a" * 32)
    with opened(root) as repository:
        sealed = seal_json(repository.keyring, kind, f"{folder}/{name}", {"packs": [], "points": []})
    (root / folder / name).write_bytes(sealed[:-1] + bytes([sealed[-1] ^ 1]))
    (damage,) = quick(root).damage
    assert f"{folder}/{name}" in damage.what
    assert hint in (damage.hint or "")
    assert damage.harms == ()


def test_a_key_wrapper_that_is_damaged_is_named(root: Path, points: list[Manifest]) -> None:
    (root / "keys" / ("f" * 32)).write_bytes(b"{")
    (damage,) = quick(root).damage
    assert "f" * 32 in damage.what
    assert "remove it" in (damage.hint or "")


def test_an_older_configuration_that_is_damaged_harms_nothing_and_is_named(root: Path, points: list[Manifest]) -> None:
    (root / "config" / "00000000").write_bytes(b"no configuration")
    (damage,) = quick(root).damage
    assert "config/00000000" in damage.what


def test_the_configuration_in_force_is_named_by_whoever_cannot_go_on_without(
    root: Path, points: list[Manifest]
) -> None:
    flip(root / "config" / "00000001", 80)
    with pytest.raises(IntegrityError, match="config/00000001"):
        quick(root)


def test_a_pack_that_a_collector_takes_meanwhile_is_no_damage(root: Path, points: list[Manifest]) -> None:
    with opened(root) as repository:
        pack = place_of(repository, chunks_of(repository, points[0], Kind.CONTENT)[0]).pack
        repository.marks.forget(points[0].id, "test")
        size = repository.backend.size

        def swept(name: str) -> int:
            if name == pack_object(pack) and pack_path(root, pack).exists():
                for folder, kind in (("condemned", ObjectType.CONDEMNED), ("sweeps", ObjectType.SWEEP)):
                    verdict = {"packs": [pack], "points": [points[0].id]}
                    of = f"{folder}/00000001"
                    repository.backend.put(of, seal_json(repository.keyring, kind, of, verdict))
                repository.backend.delete(name)
            return size(name)

        repository.backend.size = swept  # type: ignore[method-assign] # the collector comes just before
        report = verify(repository, data=True, stop=threading.Event())
        assert report.damage == []


def test_a_backup_that_commits_meanwhile_is_no_damage(root: Path, points: list[Manifest], workers: SpanWorkers) -> None:
    """The packs were listed before it stored its own."""
    with opened(root) as repository, opened(root) as writer:
        committed: list[Manifest] = []

        def progress(done: int, total: int) -> None:
            if not committed:
                committed.append(back_up(writer, Memory(noise(9, SIZE)), workers, name="meanwhile"))

        report = verify(repository, data=True, progress=progress, stop=threading.Event())
        assert (report.damage, report.points) == ([], 5)


# ------------------------------------------------------------------------------------------- packs


def test_only_the_chunks_that_are_damaged_are_marked(root: Path, points: list[Manifest]) -> None:
    with opened(root) as repository:
        place = place_of(repository, chunks_of(repository, points[0], Kind.CONTENT)[1])
    rot(root, place)
    (damage,) = whole(root).damage
    assert f"(slot {place.slot})" in damage.what
    with opened(root) as repository:
        assert repository.marks.damaged() == {place.pack: frozenset([place.slot])}


def test_the_same_damage_is_marked_once(root: Path, points: list[Manifest]) -> None:
    with opened(root) as repository:
        rot(root, place_of(repository, chunks_of(repository, points[0], Kind.CONTENT)[0]))
    for _ in range(3):
        assert len(whole(root).damage) == 1
        assert len(quick(root).damage) == 1, "a quick look knows of the mark"
    assert len(list((root / "marks").glob("damage-*"))) == 1


def test_two_packs_that_changed_places_are_noticed_though_all_in_them_opens(root: Path, points: list[Manifest]) -> None:
    first, second = packs(root)[:2]
    content = first.read_bytes(), second.read_bytes()
    first.write_bytes(content[1])
    second.write_bytes(content[0])
    assert any("what their directories do not" in damage.what for damage in quick(root).damage)


def test_a_pack_that_may_not_be_read_is_damage_and_is_not_marked(root: Path, points: list[Manifest]) -> None:
    with opened(root) as repository:
        denied, get_range = pack_object(packs(root)[0].name), repository.backend.get_range

        def refused(name: str, offset: int, length: int) -> bytes:
            if name == denied:
                raise AccessDenied("Permission denied")
            return get_range(name, offset, length)

        repository.backend.get_range = refused  # type: ignore[method-assign] # a file of another user's
        assert len(verify(repository, stop=threading.Event()).damage) == 1
        assert repository.marks.damaged() == {}


def test_a_bad_sector_costs_the_chunks_on_it_and_no_others(
    root: Path, points: list[Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("offhost.repository.verification.checking._WAIT_S", 0.0)
    with opened(root) as repository:
        place = place_of(repository, chunks_of(repository, points[0], Kind.CONTENT)[1])
        get_range = repository.backend.get_range

        def failing(name: str, offset: int, length: int) -> bytes:
            if name == pack_object(place.pack) and offset < place.offset + 100 < offset + length:
                raise Unavailable("Input/output error")
            return get_range(name, offset, length)

        repository.backend.get_range = failing  # type: ignore[method-assign] # a disk with a bad sector
        verify(repository, data=True, stop=threading.Event())
        assert repository.marks.damaged() == {place.pack: frozenset([place.slot])}


def test_a_store_that_does_not_answer_at_all_is_no_damage(
    root: Path, points: list[Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("offhost.repository.verification.checking._WAIT_S", 0.0)
    with opened(root) as repository:
        get_range, down = repository.backend.get_range, threading.Event()

        def gone(name: str, offset: int, length: int) -> bytes:
            if name.startswith("packs/"):
                down.set()
            if down.is_set():
                raise Unavailable("Connection timed out")
            return get_range(name, offset, length)

        repository.backend.get_range = gone  # type: ignore[method-assign] # a server that goes away
        with pytest.raises(Unavailable):
            verify(repository, data=True, stop=threading.Event())
        repository.backend.get_range = get_range  # type: ignore[method-assign] # the real one again
        assert repository.marks.damaged() == {}


def test_when_most_packs_have_vanished_none_is_marked(root: Path, points: list[Manifest]) -> None:
    """It may be that they only lie on something that is not mounted."""
    for path in packs(root)[:3]:
        path.unlink()
    found = quick(root)
    assert sum(len(damage.harms) for damage in found.damage) == 3
    assert list((root / "marks").iterdir()) == []


def test_what_vanished_is_named_with_whom_it_harms(root: Path, points: list[Manifest]) -> None:
    gone = packs(root)[0]
    gone.unlink()
    (damage,) = quick(root).damage
    assert gone.name in damage.what
    assert len(damage.harms) == 1
    assert quick(root).damage[0].harms == damage.harms


# ------------------------------------------------------------------------------------------- going on


@dataclass
class Later:
    """A clock that stands where it is put."""

    at: datetime = datetime(2026, 3, 1, tzinfo=UTC)

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return SystemClock().monotonic()


@pytest.fixture
def clock() -> Later:
    return Later()


@pytest.fixture
def repository(root: Path, points: list[Manifest], clock: Later) -> Iterator[Repository]:
    with opened(root) as repository:
        repository.clock = clock
        yield repository


def stopped_after(repository: Repository, count: int) -> None:
    """Verify everything, and stop when so many packs have been read."""
    stop, read = threading.Event(), 0

    def progress(done: int, total: int) -> None:
        nonlocal read
        if total:
            read += 1
            if read >= count:
                stop.set()

    with pytest.raises(Stopped) as stopped:
        verify(repository, reading=Reading(threads=1), progress=progress, stop=stop)
    assert "goes on" in (stopped.value.hint or "")


def test_one_that_was_stopped_goes_on_with_what_it_has_not_read(repository: Repository, clock: Later) -> None:
    stopped_after(repository, 2)
    begun, clock.at = clock.at, clock.at + timedelta(hours=5)
    report = verify(repository, data=True, stop=threading.Event())
    assert report.continued_from == begun
    assert report.packs == 4
    assert report.read_packs == 2
    again = verify(repository, data=True, stop=threading.Event())
    assert (again.continued_from, again.read_packs) == (None, 4), "it was done: the next one begins anew"


def test_one_that_was_killed_goes_on_too(
    repository: Repository, root: Path, tmp_path: Path, clock: Later, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies in the repository after two packs is what a kill would leave."""
    monkeypatch.setattr("offhost.repository.verification.verify._SAVE_EVERY_S", 0.0)
    read = 0

    def progress(done: int, total: int) -> None:
        nonlocal read
        read += 1
        if read == 2:
            shutil.copytree(root, tmp_path / "killed")

    verify(repository, reading=Reading(threads=1), progress=progress, stop=threading.Event())
    with opened(tmp_path / "killed") as after:
        after.clock = clock
        report = verify(after, data=True, stop=threading.Event())
    assert report.continued_from == clock.at
    assert report.read_packs == 2


def test_one_that_was_stopped_long_ago_or_is_asked_to_begins_anew(repository: Repository, clock: Later) -> None:
    stopped_after(repository, 2)
    assert verify(repository, reading=Reading(anew=True), stop=threading.Event()).read_packs == 4
    stopped_after(repository, 2)
    clock.at += timedelta(days=8)
    assert verify(repository, data=True, stop=threading.Event()).read_packs == 4


def test_a_nightly_sample_reads_everything_in_its_turn(repository: Repository, clock: Later) -> None:
    seen: set[str] = set()
    read: list[str] = []
    get_range = repository.backend.get_range

    def noted(name: str, offset: int, length: int) -> bytes:
        if name.startswith("packs/") and length > 100_000:
            read.append(name)
        return get_range(name, offset, length)

    repository.backend.get_range = noted  # type: ignore[method-assign] # the real one, with what it reads noted
    for _ in range(4):
        clock.at += timedelta(days=1)
        assert verify(repository, reading=Reading(share=0.2), stop=threading.Event()).read_packs == 1
        seen.add(read[-1])
    assert len(seen) == 4


def test_what_was_read_is_known_to_the_next_however_many_records_there_are(
    repository: Repository, clock: Later, root: Path
) -> None:
    for _ in range(4):
        clock.at += timedelta(days=1)
        verify(repository, reading=Reading(share=0.2), stop=threading.Event())
    old = superseded(repository.backend)
    assert len(old) == 3
    for name in old:
        repository.backend.delete(name)  # as a collector does
    ledger = Ledger.load(repository.backend, repository.keyring, clock)
    assert all(ledger.read_at(path.name) > 0 for path in packs(root))


def test_a_record_that_does_not_open_costs_reading_again_only(repository: Repository, root: Path) -> None:
    verify(repository, data=True, stop=threading.Event())
    for record in (root / "marks").glob("verified-*"):
        flip(record, 70)
    report = verify(repository, data=True, stop=threading.Event())
    assert report.read_packs == 4
    assert all("marks/verified" in damage.what for damage in report.damage)


# ------------------------------------------------------------------------------------------- a restore point


def end_to_end(repository: Repository, point: Manifest, workers: SpanWorkers, key: str | None = None) -> VerifyReport:
    return verify_point(
        repository.restore_point(point), key, workers=workers, progress=lambda *_: None, stop=threading.Event()
    )


def test_a_point_is_read_to_its_end(root: Path, points: list[Manifest], workers: SpanWorkers) -> None:
    with opened(root) as repository:
        report = end_to_end(repository, points[1], workers)
        assert (report.damage, report.read_bytes) == ([], SIZE)
        rot(root, place_of(repository, chunks_of(repository, points[1], Kind.CONTENT)[-1]))
        (damage,) = end_to_end(repository, points[1], workers, "disk0").damage
        assert "disk0" in damage.harms[0]
        assert end_to_end(repository, points[0], workers).damage == []


def test_a_reader_that_puts_bytes_in_the_wrong_place_is_found_out(
    root: Path, points: list[Manifest], workers: SpanWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The root digest is recomputed from what was read, not from what each chunk was checked for."""
    read_into = PointDiskReader.read_into

    def shifted(self: PointDiskReader, offset: int, buffer: memoryview) -> None:
        read_into(self, offset, buffer)
        buffer[0], buffer[1] = buffer[1], buffer[0] ^ 1

    monkeypatch.setattr(PointDiskReader, "read_into", shifted)
    with opened(root) as repository:
        (damage,) = end_to_end(repository, points[0], workers).damage
        assert "root digest" in damage.what


@pytest.mark.slow
def test_a_pack_of_a_hundred_thousand_slots_that_are_none_takes_little_memory(repository: Repository) -> None:
    """As somebody makes it up who has the key: sealed slots without content, none of which opens."""
    keyring = repository.keyring
    header = OpenPack(keyring, pack_buffer()).buffer[:HEADER_BYTES]
    slots = np.zeros(100_000, DIRECTORY)
    slots["kind"], slots["stored"], slots["plain"] = Kind.CONTENT, TAG_BYTES, 1
    cipher = PackCipher.of(keyring, bytes(header), "made up")
    directory = cipher.aes.encrypt(b"\x01" + bytes(11), slots.tobytes(), bytes(header) + keyring.repository_id)
    pack = bytes(header) + bytes(int(slots["stored"].sum())) + directory + len(directory).to_bytes(4, "little")
    name = "ab" * 32
    repository.backend.put(pack_object(name), pack)
    checker = PackChecker(repository.backend, keyring, threading.Event())
    tracemalloc.start()
    try:
        fault = checker.data(name).fault
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert fault is not None
    assert fault.slots is not None
    assert len(fault.slots) == len(slots)
    assert peak < 50 << 20, "slice by slice, and of what fails only the number is kept"
