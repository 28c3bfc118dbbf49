from dataclasses import replace

import pytest

from offhost.errors import PackCorrupt
from offhost.ids import VmId
from offhost.repository.keys.keyring import Keyring


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


def test_a_keyring_learns_from_a_later_one_of_its_own_repository_alone() -> None:
    keyring = Keyring.new()
    later = keyring.with_new_epoch()
    keyring.learn(later)
    assert (keyring, keyring.epoch) == (later, 2)
    for other in (Keyring.new().with_new_epoch().with_new_epoch(), replace(later, epochs={3: bytes(32)})):
        with pytest.raises(PackCorrupt, match="replaced by another"):
            keyring.learn(other)
    assert keyring == later


def test_an_epoch_that_is_not_held_is_named() -> None:
    with pytest.raises(PackCorrupt, match="epoch 2"):
        Keyring.new().sealing_key(2, 0, bytes(32))
