"""Opening: the right wrapper is found among any others, and encryption is never mistaken."""

import json
import secrets
from pathlib import Path

import pytest

from offhost.backend.local import LocalBackend
from offhost.errors import NoRepository, PackCorrupt, Unavailable, WrongKey
from offhost.repository.access import Access
from offhost.repository.keys import wrappers
from offhost.repository.keys.credentials import KeyFile, Passphrase, RecoveryKey, Unencrypted, Unlock
from offhost.repository.keys.keyring import Keyring
from offhost.repository.keys.wrappers import Argon2Cost, Stretch, wrap
from offhost.repository.objects.configuration import read_config
from offhost.repository.objects.sealed import ObjectType, get_json, seal_json
from offhost.repository.opening import open_keyring, passphrase_salt
from offhost.repository.repository import Repository, create
from support.faulty_backend import Fault, FaultyBackend
from support.repositories import CHEAP, PASSPHRASE, make

KEY_FILE, RECOVERY = KeyFile(bytes(range(32))), RecoveryKey(bytes(range(20)))


@pytest.fixture
def backend(root: Path) -> LocalBackend:
    return LocalBackend(root)


def plant(backend: LocalBackend, keyring: Keyring, unlock: Unlock, *, salt: bytes, cost: Argon2Cost = CHEAP) -> None:
    """Put a wrapper, as anybody can who may write there."""
    wrapper_id, data = wrap(keyring, unlock, label="", created="2026-01-01T00:00:00Z", salt=salt, cost=cost)
    backend.put(f"keys/{wrapper_id}", data)


@pytest.fixture
def stretched(monkeypatch: pytest.MonkeyPatch) -> list[Stretch]:
    """Every stretch of a passphrase from now on."""
    done: list[Stretch] = []
    real = wrappers.Stretch.key

    def count(self: Stretch, secret: object) -> bytes:
        if self.cost:
            done.append(self)
        return real(self, secret)  # type: ignore[arg-type] # whatever it was called with

    monkeypatch.setattr(wrappers.Stretch, "key", count)
    return done


def test_each_way_in_opens_the_repository(root: Path) -> None:
    access = Access.open(root, PASSPHRASE)
    for secret in (KEY_FILE, RECOVERY, Passphrase("another")):
        access.add(secret, cost=CHEAP)
    for unlock in (PASSPHRASE, KEY_FILE, RECOVERY, Passphrase("another")):
        with Repository.open(root, unlock) as repository:
            assert repository.config.encrypted


@pytest.mark.parametrize("unlock", [PASSPHRASE, KEY_FILE, RECOVERY, Unencrypted()], ids=lambda unlock: unlock.kind)
def test_a_repository_is_made_with_any_of_them(tmp_path: Path, unlock: Unlock) -> None:
    create(tmp_path / "repository", unlock, cost=CHEAP)
    with Repository.open(tmp_path / "repository", unlock) as repository:
        assert repository.config.encrypted is not isinstance(unlock, Unencrypted)


def test_a_wrong_secret_is_told_what_would_open_it(root: Path) -> None:
    access = Access.open(root, PASSPHRASE)
    access.add(KEY_FILE)
    with pytest.raises(WrongKey, match="the passphrase does not open it: it has 1 passphrase, 1 key file"):
        open_keyring(LocalBackend(root), Passphrase("wrong"))
    with pytest.raises(WrongKey, match="the key file does not open it"):
        open_keyring(LocalBackend(root), KeyFile(bytes(32)))
    with pytest.raises(WrongKey, match="no recovery key opens it"):
        open_keyring(LocalBackend(root), RECOVERY)


def test_thousands_of_planted_wrappers_cost_the_owner_one_stretch(
    backend: LocalBackend, stretched: list[Stretch]
) -> None:
    own = passphrase_salt(backend)
    wrapper_id, data = wrap(Keyring.new(), Passphrase("x"), label="", created="", salt=own, cost=CHEAP)
    for number in range(1000):
        fields = json.loads(data)
        fields["kdf"]["salt"] = secrets.token_hex(16) if number % 2 else own.hex()
        (backend.root / "keys" / f"{number:08x}{wrapper_id[8:]}").write_text(json.dumps(fields))
    stretched.clear()
    assert open_keyring(backend, PASSPHRASE).config.encrypted
    assert len(stretched) == 1


def test_no_number_of_planted_wrappers_that_look_cheaper_goes_before_the_owners(tmp_path: Path) -> None:
    create(tmp_path / "repository", PASSPHRASE)
    backend = LocalBackend(tmp_path / "repository")
    wrapper_id, data = wrap(
        Keyring.new(), Passphrase("x"), label="", created="", salt=passphrase_salt(backend), cost=CHEAP
    )
    for number in range(100):
        fields = json.loads(data)
        fields["kdf"]["memory_kib"] += number
        (backend.root / "keys" / f"{number:08x}{wrapper_id[8:]}").write_text(json.dumps(fields))
    assert open_keyring(backend, PASSPHRASE).config.encrypted


def test_planted_wrappers_that_ask_for_much_work_are_bounded(
    backend: LocalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Argon2Cost] = []

    def count(self: Stretch, secret: object) -> bytes:
        assert self.cost
        asked.append(self.cost)
        return b"\1" * 32

    monkeypatch.setattr(wrappers.Stretch, "key", lambda *_: bytes(32))
    for number in range(150):
        cost = Argon2Cost(16, 1 << 20, 4) if number % 2 else CHEAP
        plant(backend, Keyring.new(), Passphrase("x"), salt=secrets.token_bytes(16), cost=cost)
    monkeypatch.setattr(wrappers.Stretch, "key", count)
    with pytest.raises(WrongKey, match="were not tried: they ask for too much work"):
        open_keyring(backend, Passphrase("wrong"))
    assert len(asked) <= 64
    assert sum(cost.work for cost in asked) <= 2 * Argon2Cost(16, 1 << 20, 4).work


def test_key_files_and_recovery_keys_are_found_among_any_number(root: Path, backend: LocalBackend) -> None:
    access = Access.open(root, PASSPHRASE)
    access.add(KEY_FILE)
    access.add(RECOVERY)
    for _ in range(100):
        plant(backend, Keyring.new(), KeyFile.new(), salt=b"")
        plant(backend, Keyring.new(), RecoveryKey.new(), salt=b"")
    assert open_keyring(backend, KEY_FILE).config.encrypted
    assert open_keyring(backend, RECOVERY).config.encrypted


def test_damaged_and_foreign_objects_among_the_wrappers_shut_nobody_out(backend: LocalBackend) -> None:
    for name, data in (
        ("0" * 32, b"["),
        ("1" * 32, b"\xff" * (1 << 20)),
        ("README", b"x"),
        ("2" * 32, b'{"format": 9}'),
    ):
        (backend.root / "keys" / name).write_bytes(data)
    assert open_keyring(backend, PASSPHRASE).config.encrypted
    with pytest.raises(WrongKey, match="1 of a kind not known here, 2 that cannot be read"):
        open_keyring(backend, Passphrase("wrong"))


def test_a_store_that_does_not_answer_is_not_a_wrong_key(root: Path) -> None:
    backend = FaultyBackend(LocalBackend(root))
    open_keyring(backend, PASSPHRASE)
    for at, call in enumerate(backend.calls):
        if "keys/" in call:
            for lasting in (False, True):
                with pytest.raises(Unavailable):
                    open_keyring(FaultyBackend(LocalBackend(root), Fault(at, "unavailable", lasting)), PASSPHRASE)


def test_without_its_wrappers_a_repository_is_told_from_none(root: Path) -> None:
    for path in (root / "keys").iterdir():
        path.unlink()
    with pytest.raises(NoRepository, match="its key wrappers are gone"):
        open_keyring(LocalBackend(root), PASSPHRASE)


def test_with_a_secret_given_no_unencrypted_repository_opens(tmp_path: Path) -> None:
    create(tmp_path / "repository", Unencrypted())
    for unlock in (PASSPHRASE, KEY_FILE, RECOVERY):
        with pytest.raises(WrongKey, match=f"keys lie in the open, and a {unlock.name} was given: refused"):
            Repository.open(tmp_path / "repository", unlock)


def test_without_a_secret_no_encrypted_repository_opens(root: Path) -> None:
    with pytest.raises(WrongKey, match="is encrypted, and was to be opened without a secret"):
        Repository.open(root, Unencrypted())


def test_a_plain_wrapper_of_another_keyring_opens_no_encrypted_repository(
    root: Path, backend: LocalBackend, caplog: pytest.LogCaptureFixture
) -> None:
    plant(backend, Keyring.new(), Unencrypted(), salt=b"")
    with pytest.raises(WrongKey, match="is encrypted"):
        Repository.open(root, Unencrypted())
    Repository.open(root, PASSPHRASE).close()
    assert "a key wrapper that needs no secret was put into it" in caplog.text


def test_not_even_its_own_keys_in_the_open_make_an_encrypted_repository_open_without_a_secret(
    root: Path, backend: LocalBackend
) -> None:
    plant(backend, open_keyring(backend, PASSPHRASE).keyring, Unencrypted(), salt=b"")
    with pytest.raises(WrongKey, match="is encrypted"):
        Repository.open(root, Unencrypted())


def test_a_secret_put_on_an_unencrypted_repository_does_not_make_it_pass_for_encrypted(tmp_path: Path) -> None:
    create(tmp_path / "repository", Unencrypted())
    backend = LocalBackend(tmp_path / "repository")
    plant(backend, open_keyring(backend, Unencrypted()).keyring, PASSPHRASE, salt=bytes(16))
    with pytest.raises(WrongKey, match="is not encrypted by its own configuration"):
        Repository.open(tmp_path / "repository", PASSPHRASE)
    Repository.open(tmp_path / "repository", Unencrypted()).close()


def test_keys_swapped_for_those_of_another_repository_open_nothing(root: Path, tmp_path: Path) -> None:
    other = make(tmp_path / "other")
    for path in (root / "keys").iterdir():
        path.unlink()
    for path in (other / "keys").iterdir():
        (root / "keys" / path.name).write_bytes(path.read_bytes())
    with pytest.raises(PackCorrupt, match="config/00000001: fails its seal"):
        Repository.open(root, PASSPHRASE)


def test_a_configuration_that_contradicts_its_epoch_is_refused(backend: LocalBackend) -> None:
    keyring = open_keyring(backend, PASSPHRASE).keyring
    value = get_json(backend, keyring, ObjectType.CONFIG, "config/00000001") | {"epoch": 7}
    backend.put("config/00000002", seal_json(keyring, ObjectType.CONFIG, "config/00000002", value))
    with pytest.raises(PackCorrupt, match="another key epoch than it names"):
        read_config(backend, keyring)


def test_what_lies_among_the_configurations_under_no_name_of_theirs_is_none(root: Path) -> None:
    (root / "config" / "zzz").write_bytes(b"x")
    (root / "config" / "99999999.bak").write_bytes(b"x")
    Repository.open(root, PASSPHRASE).close()
