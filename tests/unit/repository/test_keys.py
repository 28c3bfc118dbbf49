import json

import pytest

from offhost.errors import PackCorrupt
from offhost.ids import VmId
from offhost.repository.keys import Argon2Cost, Keyring, unwrap
from support.repositories import CHEAP


def test_a_passphrase_opens_its_wrapper_and_no_other_does() -> None:
    keyring = Keyring.new()
    wrapper_id, wrapper = keyring.wrap("pässword", CHEAP)
    assert unwrap(wrapper_id, wrapper, "pässword") == keyring
    assert unwrap(wrapper_id, wrapper, "password") is None


def test_a_passphrase_is_the_same_however_its_letters_are_composed() -> None:
    wrapper_id, wrapper = Keyring.new().wrap("p\u00e4ssword", CHEAP)
    assert unwrap(wrapper_id, wrapper, "pa\u0308ssword") is not None


def test_a_wrapper_under_another_id_does_not_open() -> None:
    _, wrapper = Keyring.new().wrap("x", CHEAP)
    assert unwrap("0" * 32, wrapper, "x") is None


@pytest.mark.parametrize(
    "change",
    [
        {"kdf": {"name": "argon2id", "salt": "00" * 16, "time": 3, "memory_kib": 1 << 30, "lanes": 4}},
        {"kdf": {"name": "argon2id", "salt": "00" * 16, "time": 1 << 20, "memory_kib": 8 << 10, "lanes": 4}},
        {"kdf": {"name": "argon2id"}},
        {"nonce": "zz"},
    ],
)
def test_a_hostile_wrapper_is_refused_before_it_costs_anything(change: dict[str, object]) -> None:
    wrapper_id, wrapper = Keyring.new().wrap("x", CHEAP)
    with pytest.raises(PackCorrupt):
        unwrap(wrapper_id, json.dumps(json.loads(wrapper) | change).encode(), "x")


def test_no_secret_shows_in_a_repr() -> None:
    keyring = Keyring.new()
    assert keyring.id_key.hex() not in repr(keyring)
    assert repr(keyring.id_key) not in repr(keyring)
    assert repr(keyring.epochs[1]) not in repr(keyring)


def test_every_purpose_has_a_key_of_its_own() -> None:
    keyring = Keyring.new()
    keys = {
        keyring.sealing_key(1, 0, bytes(32)),
        keyring.sealing_key(1, 1, bytes(32)),
        keyring.sealing_key(1, 0, bytes(31) + b"1"),
        keyring.metadata_id_key(),
        keyring.id_key,
    }
    assert len(keys) == 5
    assert keyring.vm_folder(VmId("a")) != keyring.vm_folder(VmId("b"))


def test_an_epoch_that_is_not_held_is_named() -> None:
    with pytest.raises(PackCorrupt, match="epoch 2"):
        Keyring.new().sealing_key(2, 0, bytes(32))


def test_the_default_cost_is_within_the_bounds() -> None:
    assert Argon2Cost().bounded()
