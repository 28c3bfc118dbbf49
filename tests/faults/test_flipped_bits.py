"""Bytes that changed where they lie: reading works, with the right bytes, or says what is wrong; never wrong data.

Each object of a repository is hurt in each way at each of its fields, one at a time.
"""

import logging
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Event

import pytest

from faults.campaign import LONG, Tally, some
from faults.story import Violation, World, assert_unharmed, collected, first_disk, forgot, third_disk
from offhost.errors import OffhostError
from offhost.ids import VmId
from offhost.repository.objects.sealed import ObjectType, seal_json
from offhost.repository.repository import Repository
from offhost.repository.verification.verify import verify
from support.repositories import Memory, back_up, content, opened

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

HEADER_FIELDS = (0, 7, 8, 9, 10, 11, 12, 43, 44)
"""Magic, type, suite, epoch, salt and the first byte after them: packs and sealed objects have them alike."""
SECTOR = 512
KINDS = ("config", "keys", "packs", "index", "points", "sessions", "condemned", "sweeps", "marks")


@pytest.fixture(scope="module")
def furnished(template: World) -> World:
    """A repository that has an object of every kind: a reader at work, a list that stands, a pin, damage."""
    world = template.copied(template.root.parent / "furnished")
    with opened(world.root) as repository:
        point = next(point for point in repository.points.all() if point.vm_name == "web")
        repository.marks.pin(point.id, "keep")
        repository.marks.damage("0" * 64, frozenset([1]), "by hand")
        forgot(world, repository)
        collected(world, repository)
        world.committed = {point.id: content(repository, point) for point in repository.points.all()}
        name = "condemned/00000002"
        value = {"packs": ["0" * 64], "points": []}
        repository.backend.put(name, seal_json(repository.keyring, ObjectType.CONDEMNED, name, value))
        put_session(repository, point.id, point.vm_id)
    assert {kind for kind in KINDS if objects(world.root, kind)} == set(KINDS)
    return world


def put_session(repository: Repository, sid: str, vm: VmId) -> None:
    """A reader of another host, that is still there."""
    session = "1" * 32
    value = {"kind": "read", "point": f"points/{repository.keyring.vm_folder(vm)}/{sid}", "host": "elsewhere"}
    said = {f"sessions/{session}": value | {"started": "2999-01-01T00:00:00+00:00"}}
    said[f"sessions/{session}.1"] = {"time": "2999-01-01T00:00:00+00:00"}
    for name, payload in said.items():
        kind = ObjectType.HEARTBEAT if name.endswith(".1") else ObjectType.SESSION
        repository.backend.put(name, seal_json(repository.keyring, kind, name, payload))


def objects(root: Path, kind: str) -> list[Path]:
    return sorted(path for path in (root / kind).rglob("*") if path.is_file())


def wounds(data: bytes, others: Sequence[bytes]) -> dict[str, bytes]:
    """The bytes of an object, hurt in every way that is tried; `others` are objects of its kind."""
    size = len(data)
    spread = range(0, size, max(size // (48 if LONG else 6), 1))
    places = {at for at in (*HEADER_FIELDS, *spread, size - 1, size - 4, size - 20) if 0 <= at < size}
    hurt = {f"a bit of byte {at} flipped": _flipped(data, at) for at in places}
    for at in range(0, size, max(size // 8 // SECTOR, 1) * SECTOR):
        hurt[f"the sector at {at} zeroed"] = data[:at] + bytes(len(data[at : at + SECTOR])) + data[at + SECTOR :]
    for length in (0, 1, 43, 44, 60, size // 2, size - 1):
        hurt[f"cut to {length} bytes"] = data[:length]
    hurt["a byte longer"] = data + b"\0"
    for number, other in enumerate(others[:3]):
        hurt[f"exchanged for another {number}"] = other
    return {what: wounded for what, wounded in hurt.items() if wounded != data}


def _flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]


@pytest.mark.parametrize("kind", KINDS)
def test_a_hurt_object_is_read_right_or_refused(
    kind: str, furnished: World, tally: Tally, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    hurts: list[tuple[Path, str, bytes]] = []
    for path in objects(furnished.root, kind):
        others = [other.read_bytes() for other in objects(furnished.root, kind) if other != path]
        name = path.relative_to(furnished.root)
        hurts += [(name, what, data) for what, data in wounds(path.read_bytes(), others).items()]
    for name, what, data in some(hurts, 2):
        world = furnished.copied(furnished.root.parent / "hurt")
        try:
            check(world, name, data)
        except AssertionError as error:
            raise Violation(f"{name}: {what}: {error}") from error
        finally:
            shutil.rmtree(world.root)
        tally.count(f"hurt bytes in {kind}/", 1)


def test_a_hurt_copy_of_the_index_makes_nothing_wrong(
    template: World, fresh: Callable[[], World], tmp_path: Path, tally: Tally, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither is a chunk missed that is there, nor one taken to be there that is not: that would be a false point."""
    caplog.set_level(logging.CRITICAL)
    cache = tmp_path / "cache"
    with opened(template.root, cache):
        pass
    (copy,) = cache.rglob("*.seg")
    for what, data in some(list(wounds(copy.read_bytes(), []).items()), 5):
        world = fresh()
        place = tmp_path / what.replace(" ", "-") / copy.parent.name
        place.mkdir(parents=True)
        (place / copy.name).write_bytes(data)
        with opened(world.root, place.parent) as repository:
            read_all(world, repository, point_hurt=False)
            world.store(repository, "web", first_disk()[:100_000] + third_disk()[0])
        assert_unharmed(world)
        tally.count("hurt bytes in a copy of the index", 1)


def check(world: World, name: Path, data: bytes) -> None:
    """Right bytes or a refusal for everybody who uses the repository, and nothing deleted that was whole."""
    kind, path = name.parts[0], world.root / name
    whole = path.read_bytes()
    path.write_bytes(data)
    try:
        with opened(world.root) as repository:
            use(world, repository, point_hurt=kind in ("packs", "points"))
    except OffhostError:
        assert kind in ("config", "keys"), "nothing can be read, though nothing is hurt that reading needs"
    if path.parent.is_dir():
        path.write_bytes(whole)
    with opened(world.root) as repository:
        read_all(world, repository, point_hurt=False)


def use(world: World, repository: Repository, *, point_hurt: bool) -> None:
    """Restore, verify, back up, collect. All but restoring what is whole may be refused."""
    read_all(world, repository, point_hurt=point_hurt)
    assert verify(repository, data=True, stop=Event()).damage, "verification is silent"
    with suppress(OffhostError):
        back_up(repository, Memory(first_disk()), world.workers, name="db")
    with suppress(OffhostError):
        collected(world, repository)


def read_all(world: World, repository: Repository, *, point_hurt: bool) -> None:
    """Every point that is there reads back right or, where points or packs are hurt, is refused."""
    points = repository.points.all()
    refused = world.committed.keys() - {point.id for point in points}
    for point in points:
        try:
            data = content(repository, point)
        except OffhostError:
            refused.add(point.id)
        else:
            assert data == world.committed.get(point.id, first_disk()), f"point {point.id} reads back wrong"
    assert point_hurt or not refused, f"points {refused} are whole, and cannot be restored"
