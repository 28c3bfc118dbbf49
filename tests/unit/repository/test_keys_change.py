"""Ways in are added and removed, and key epochs begun, while there is always one that is durable."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from compat.golden import HERE, generations, unpack
from offhost.backend.local import LocalBackend
from offhost.chunking.workers import SpanWorkers
from offhost.errors import Conflict, NotFound, OffhostError, PackCorrupt, WrongKey
from offhost.repository.access import Access, WayIn
from offhost.repository.keys.credentials import KeyFile, Passphrase, RecoveryKey, Secret, Unencrypted
from offhost.repository.keys.keyring import Keyring
from offhost.repository.keys.wrappers import wrap
from offhost.repository.objects.sealed import ObjectType, epoch_of, seal_json
from offhost.repository.opening import open_keyring
from offhost.repository.repository import Repository, create
from support.faulty_backend import HOWS, Fault, FaultyBackend, How
from support.repositories import CHEAP, PASSPHRASE, Memory, back_up, content, noise, opened

KEY_FILE, RECOVERY = KeyFile(bytes(range(32))), RecoveryKey(bytes(range(20)))


@pytest.fixture
def access(root: Path) -> Access:
    return Access.open(root, PASSPHRASE)


def opens(root: Path, secret: Secret) -> bool:
    try:
        return open_keyring(LocalBackend(root), secret).config.encrypted
    except WrongKey:
        return False


def told(access: Access) -> list[tuple[str, str, bool]]:
    return [(way.kind, way.standing, way.in_use) for way in access.ways()]


def test_the_list_says_what_opens_a_repository_and_what_was_used(root: Path, access: Access) -> None:
    way = access.add(KEY_FILE, label="the proxy")
    assert (way.kind, way.label, way.epoch, way.standing) == ("keyfile", "the proxy", 1, "good")
    assert sorted(told(access)) == [("keyfile", "good", False), ("passphrase", "good", True)]
    assert sorted(told(Access.open(root, KEY_FILE))) == [("keyfile", "good", True), ("passphrase", "good", False)]
    assert access.find(way.id[:6]) == way
    for text in ("", "zz"):
        with pytest.raises(NotFound):
            access.find(text)


def test_a_way_in_comes_and_goes_without_anything_else_being_written(root: Path, access: Access) -> None:
    before = sorted(root.rglob("*"))
    way = access.add(KEY_FILE)
    assert [path.parent.name for path in root.rglob("*") if path not in before] == ["keys"]
    access.remove(way)
    assert sorted(root.rglob("*")) == before
    assert not opens(root, KEY_FILE)


def test_the_last_way_in_stays(root: Path, access: Access) -> None:
    (own,) = access.ways()
    with pytest.raises(Conflict, match="the last one that opens"):
        access.remove(own)
    foreign, data = wrap(Keyring.new(), KEY_FILE, label="", created="", salt=b"", cost=CHEAP)
    (root / "keys" / foreign).write_bytes(data)
    with pytest.raises(Conflict, match="the last one that opens"):
        access.remove(own)
    access.remove(access.find(foreign))
    assert access.ways() == [own]


def test_of_two_who_remove_each_others_way_in_at_once_one_finds_it_back(root: Path, access: Access) -> None:
    way = access.add(KEY_FILE)
    (own,) = (one for one in access.ways() if one.in_use)

    class Racing(LocalBackend):
        def delete(self, name: str) -> None:
            super().delete(name)
            super().delete(f"keys/{own.id}")

    with pytest.raises(Conflict, match="at the same moment"):
        Access(Racing(root), PASSPHRASE).remove(way)
    assert opens(root, KEY_FILE)


def test_what_others_put_there_is_listed_as_such_and_not_believed(root: Path, access: Access) -> None:
    for unlock in (KEY_FILE, Unencrypted()):
        foreign, data = wrap(Keyring.new(), unlock, label="yours truly", created="1999", salt=b"", cost=CHEAP)
        (root / "keys" / foreign).write_bytes(data)
    (root / "keys" / ("f" * 32)).write_bytes(b"{")
    found = [way for way in access.ways() if not way.in_use]
    assert {way.kind for way in found} == {"keyfile", "plain", "unreadable"}
    assert all((way.standing, way.label, way.created) == ("unknown", "", None) for way in found)


def test_nothing_is_added_in_the_open_nor_to_what_lies_in_the_open(access: Access, tmp_path: Path) -> None:
    with pytest.raises(Conflict, match="never put in the open"):
        access.add(Unencrypted())
    create(tmp_path / "plain", Unencrypted())
    plain = Access.open(tmp_path / "plain", Unencrypted())
    with pytest.raises(Conflict, match="a secret would protect nothing"):
        plain.add(KEY_FILE)
    with pytest.raises(Conflict, match="not encrypted"):
        plain.rotation([])
    with pytest.raises(Conflict, match="the last one"):
        plain.remove(plain.ways()[0])


def rotated(access: Access, *others: Secret) -> list[WayIn]:
    return access.rotate(access.rotation(others), cost=CHEAP)


def test_a_new_epoch_seals_what_is_written_from_then_on_and_old_data_stays_readable(
    root: Path, workers: SpanWorkers
) -> None:
    disk = Memory(noise(1, 300_000))
    with opened(root) as repository:
        first = back_up(repository, disk, workers)
    old = {path for path in root.rglob("*") if path.is_file()}
    rotated(Access.open(root, PASSPHRASE))
    disk.content[:50_000] = noise(2, 50_000)
    with opened(root) as repository:
        second = back_up(repository, disk, workers)
        assert content(repository, second) == disk.content
        assert content(repository, first) == noise(1, 300_000)
    written = [path for path in root.rglob("*") if path.is_file() and path not in old and path.parent.name != "keys"]
    magics = {path.read_bytes()[:8] for path in written}
    assert magics == {b"OFFHOST\x01", b"OFFPACK\x01"}
    assert {int.from_bytes(path.read_bytes()[10:12], "little") for path in written} == {2}


def test_a_repository_of_the_first_release_takes_keys_and_epochs(tmp_path: Path, workers: SpanWorkers) -> None:
    root = unpack(HERE / "format-1.tar.gz", tmp_path)
    access = Access.open(root, PASSPHRASE)
    assert [(way.kind, way.label, way.created, way.in_use) for way in access.ways()] == [("passphrase", "", None, True)]
    access.add(KEY_FILE)
    assert {way.standing for way in Access.open(root, KEY_FILE).ways()} == {"good", "unmarked"}
    rotated(access, KEY_FILE)
    with Repository.open(root, KEY_FILE) as repository:
        assert repository.config.encrypted
        assert [content(repository, point) for point in repository.points.all()] == generations()
        disk = Memory(noise(9, 100_000))
        assert content(repository, back_up(repository, disk, workers)) == disk.content


def test_a_new_epoch_keeps_the_secrets_at_hand_and_drops_the_others(root: Path, access: Access) -> None:
    access.add(KEY_FILE, label="proxy")
    access.add(RECOVERY, label="safe")
    access.add(Passphrase("mallory's"), label="mallory", cost=CHEAP)
    rotation = access.rotation([RECOVERY])
    assert {way.label for way in rotation.dropped} == {"proxy", "mallory"}
    left = access.rotate(rotation, cost=CHEAP)
    assert sorted((way.label, way.epoch, way.standing, way.in_use) for way in left) == [
        ("", 2, "good", True),
        ("safe", 2, "good", False),
    ]
    assert opens(root, PASSPHRASE)
    assert opens(root, RECOVERY)
    assert not opens(root, KEY_FILE)
    assert not opens(root, Passphrase("mallory's"))
    with pytest.raises(WrongKey, match="to be kept does not open it"):
        access.rotation([KEY_FILE])


def test_a_wrapper_of_a_past_epoch_opens_nothing_when_it_is_put_back(root: Path, access: Access) -> None:
    access.add(KEY_FILE)
    kept = {path: path.read_bytes() for path in (root / "keys").iterdir()}
    rotated(access)
    for path, data in kept.items():
        path.write_bytes(data)
    with pytest.raises(WrongKey, match="is out of date: it knows key epoch 1, and 2 is in force"):
        open_keyring(LocalBackend(root), KEY_FILE)
    assert opens(root, PASSPHRASE), "the newer wrapper of the same secret is found"
    assert {way.standing for way in Access.open(root, PASSPHRASE).ways()} == {"good", "outdated"}


@pytest.mark.parametrize("wrappers_too", [False, True])
def test_who_knows_only_an_old_epoch_cannot_bring_it_back(root: Path, access: Access, wrappers_too: bool) -> None:
    kept = {path: path.read_bytes() for path in (root / "keys").iterdir()}
    old = open_keyring(LocalBackend(root), PASSPHRASE)
    rotated(access)
    name = "config/00000003"
    (root / name).write_bytes(seal_json(old.keyring, ObjectType.CONFIG, name, old.config.value))
    if wrappers_too:
        for path, data in kept.items():
            path.write_bytes(data)
    with pytest.raises(PackCorrupt, match="config/00000003 goes back to key epoch 1"):
        open_keyring(LocalBackend(root), PASSPHRASE)


def test_a_configuration_of_a_past_epoch_is_refused_with_a_newer_key(root: Path, access: Access) -> None:
    rotated(access)
    (root / "config" / "00000002").unlink()
    with pytest.raises(PackCorrupt, match="an older configuration was put back"):
        open_keyring(LocalBackend(root), PASSPHRASE)


def test_a_process_that_has_the_repository_open_learns_a_new_epoch(root: Path, workers: SpanWorkers) -> None:
    disk = Memory(noise(1, 200_000))
    with opened(root) as writer, opened(root) as reader:
        back_up(writer, disk, workers)
        rotated(Access.open(root, PASSPHRASE))
        disk.content[:50_000] = noise(2, 50_000)
        point = back_up(writer, disk, workers)
        (name,) = (path for path in (root / "points").rglob(point.id))
        assert epoch_of("", name.read_bytes()) == 2
        reader.refresh()
        assert content(reader, point) == disk.content


def test_a_process_whose_secret_was_dropped_writes_nothing_more(root: Path, workers: SpanWorkers) -> None:
    Access.open(root, PASSPHRASE).add(KEY_FILE)
    with Repository.open(root, KEY_FILE) as dropped:
        rotated(Access.open(root, PASSPHRASE))
        with pytest.raises(WrongKey, match="no key file opens it"):
            back_up(dropped, Memory(noise(1, 100_000)), workers)
    with opened(root) as repository:
        assert repository.points.all() == []


def test_of_two_who_begin_an_epoch_at_once_one_does(root: Path) -> None:
    first, second = Access.open(root, PASSPHRASE), Access.open(root, PASSPHRASE)
    rotated(first)
    before = sorted(path.name for path in (root / "keys").iterdir())
    with pytest.raises((Conflict, WrongKey)):
        rotated(second)
    assert sorted(path.name for path in (root / "keys").iterdir()) == before
    assert opens(root, PASSPHRASE)


def test_a_way_in_added_while_an_epoch_begins_is_taken_back(root: Path, access: Access) -> None:
    rotated(Access.open(root, PASSPHRASE))
    with pytest.raises(Conflict, match="at the same moment"):
        access.add(KEY_FILE)
    assert [way.kind for way in Access.open(root, PASSPHRASE).ways()] == ["passphrase"]


class Killed(BaseException):
    """The process dies here, and cleans nothing up."""


class Dying(LocalBackend):
    """Dies before, or right after, the n-th object is put or deleted; nothing works from then on."""

    def __init__(self, root: Path, at: int, *, after: bool) -> None:
        super().__init__(root)
        self._left, self._after = at, after

    def _step(self, act: Callable[[], None]) -> None:
        self._left -= 1
        if self._left < 0 or (self._left == 0 and not self._after):
            raise Killed
        act()
        if self._left == 0:
            raise Killed

    def put(self, name: str, data: bytes | bytearray | memoryview) -> None:
        self._step(lambda: super(Dying, self).put(name, data))

    def delete(self, name: str) -> None:
        self._step(lambda: super(Dying, self).delete(name))


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("at", range(1, 8))
def test_killed_at_any_step_of_a_new_epoch_the_secrets_at_hand_open_the_repository(
    root: Path, workers: SpanWorkers, at: int, after: bool
) -> None:
    disk = Memory(noise(1, 100_000))
    with opened(root) as repository:
        first = back_up(repository, disk, workers)
    access = Access.open(root, PASSPHRASE)
    access.add(RECOVERY)
    access.add(KEY_FILE)
    try:
        dying = Access(Dying(root, at, after=after), PASSPHRASE)
        dying.rotate(dying.rotation([RECOVERY]), cost=CHEAP)
    except Killed:
        pass
    for secret in (PASSPHRASE, RECOVERY):
        with Repository.open(root, secret) as repository:
            assert content(repository, first) == disk.content
            second = back_up(repository, disk, workers, name=secret.kind)
            assert content(repository, second) == disk.content
    again = Access.open(root, PASSPHRASE)
    assert "unknown" not in {way.standing for way in again.ways()}, "what is left over is known as our own"
    left = again.rotate(again.rotation([RECOVERY]), cost=CHEAP)
    assert sorted((way.kind, way.standing) for way in left) == [("passphrase", "good"), ("recovery", "good")]
    assert not opens(root, KEY_FILE)
    with Repository.open(root, RECOVERY) as repository:
        assert content(repository, first) == disk.content


def held(root: Path) -> list[Path]:
    return [path for folder in ("config", "keys") for path in (root / folder).iterdir()]


@pytest.mark.slow
@pytest.mark.parametrize("how", HOWS)
def test_a_store_that_fails_at_any_call_leaves_a_way_in_and_none_that_nobody_has(root: Path, how: How) -> None:
    Access.open(root, PASSPHRASE).add(RECOVERY)
    pristine = {path: path.read_bytes() for path in held(root)}

    def change(backend: FaultyBackend) -> None:
        access = Access(backend, PASSPHRASE)
        access.add(KEY_FILE)
        access.rotate(access.rotation([RECOVERY]), cost=CHEAP)
        for way in access.ways():
            if way.kind == "recovery":
                access.remove(way)

    counting = FaultyBackend(LocalBackend(root))
    change(counting)
    for at in range(len(counting.calls)):
        for path in held(root):
            path.unlink()
        for path, data in pristine.items():
            path.write_bytes(data)
        with suppress(OffhostError):
            change(FaultyBackend(LocalBackend(root), Fault(at, how)))
        access = Access.open(root, PASSPHRASE)
        for way in access.ways():
            known = next(secret for secret in (PASSPHRASE, KEY_FILE, RECOVERY) if secret.kind == way.kind)
            assert way.standing != "good" or opens(root, known), f"call {at}: {counting.calls[at]}"
