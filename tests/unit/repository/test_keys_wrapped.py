"""Key wrappers: each secret opens its own, and a hostile one is refused before it costs anything."""

import json
import secrets
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offhost.errors import PackCorrupt
from offhost.repository.keys.credentials import KeyFile, Passphrase, RecoveryKey, Secret, Unencrypted
from offhost.repository.keys.keyring import EPOCHS_LIMIT, Keyring
from offhost.repository.keys.wrappers import WRAPPER_LIMIT_BYTES, Argon2Cost, Wrapper, parsed, wrap
from support.repositories import CHEAP

SECRETS: list[Secret] = [Passphrase("pässword"), KeyFile(bytes(range(32))), RecoveryKey(bytes(range(20)))]
OTHERS: list[Secret] = [Passphrase("password"), KeyFile(bytes(32)), RecoveryKey(bytes(20))]
SALT = bytes(16)


def wrapped(keyring: Keyring, secret: Secret | Unencrypted, label: str = "") -> tuple[str, bytes]:
    return wrap(keyring, secret, label=label, created="2026-01-01T00:00:00Z", salt=SALT, cost=CHEAP)


def opened(wrapper: Wrapper, secret: Secret) -> Keyring | None:
    assert wrapper.stretch
    return wrapper.open(wrapper.stretch.key(secret))


@pytest.mark.parametrize(("secret", "other"), list(zip(SECRETS, OTHERS, strict=True)), ids=lambda secret: secret.kind)
def test_a_secret_opens_its_wrapper_and_no_other_does(secret: Secret, other: Secret) -> None:
    keyring = Keyring.new()
    wrapper = parsed(*wrapped(keyring, secret))
    assert opened(wrapper, secret) == keyring
    assert opened(wrapper, other) is None


def test_a_passphrase_is_the_same_however_its_letters_are_composed() -> None:
    wrapper = parsed(*wrapped(Keyring.new(), Passphrase("p\u00e4ssword")))
    assert opened(wrapper, Passphrase("pa\u0308ssword")) is not None


@pytest.mark.parametrize("secret", SECRETS, ids=lambda secret: secret.kind)
def test_a_wrapper_under_another_id_does_not_open(secret: Secret) -> None:
    _, data = wrapped(Keyring.new(), secret)
    assert opened(parsed("0" * 32, data), secret) is None


def test_what_a_wrapper_says_of_itself_is_signed_by_a_holder_of_the_keys() -> None:
    keyring = Keyring.new()
    wrapper_id, data = wrapped(keyring, SECRETS[1], label="the office")
    assert parsed(wrapper_id, data).label == "the office"
    assert parsed(wrapper_id, data).genuine(keyring) is True
    fields = json.loads(data)
    for change in (
        {"label": "mine"},
        {"created": "2001"},
        {"epoch": 2},
        {"epoch": 0},
        {"wrapped": "00"},
        {"more": 1},
        {"tag": 7},
    ):
        assert parsed(wrapper_id, json.dumps(fields | change).encode()).genuine(keyring) is False, change
    assert parsed(secrets.token_hex(16), data).genuine(keyring) is False
    assert parsed(wrapper_id, data).genuine(Keyring.new()) is False


def test_who_never_knew_an_epoch_signs_no_wrapper_of_it() -> None:
    old = Keyring.new()
    new, forged = old.with_new_epoch(), old.with_new_epoch()
    wrapper = parsed(*wrapped(forged, SECRETS[1]))
    assert wrapper.epoch == 2
    assert wrapper.genuine(new) is False
    assert wrapper.genuine(old) is True, "an epoch that is being begun is known by the one before it"
    assert wrapper.genuine(Keyring.new()) is False
    assert parsed(*wrapped(old, SECRETS[1])).genuine(new) is True


def test_a_wrapper_that_says_nothing_of_itself_opens_as_it_did() -> None:
    keyring = Keyring.new()
    wrapper_id, data = wrapped(keyring, SECRETS[0])
    fields = {
        name: value for name, value in json.loads(data).items() if name not in ("tag", "label", "created", "epoch")
    }
    wrapper = parsed(wrapper_id, json.dumps(fields).encode())
    assert opened(wrapper, SECRETS[0]) == keyring
    assert wrapper.genuine(keyring) is None


def test_as_many_epochs_as_there_can_be_fit_into_a_wrapper() -> None:
    keyring = Keyring.new()
    while len(keyring.epochs) < EPOCHS_LIMIT:
        keyring = keyring.with_new_epoch()
    wrapper_id, data = wrapped(keyring, SECRETS[1], label="\N{PILE OF POO}" * 200)
    assert len(data) <= WRAPPER_LIMIT_BYTES
    assert opened(parsed(wrapper_id, data), SECRETS[1]) == keyring


@pytest.mark.parametrize(
    "change",
    [
        {"kdf": {"name": "argon2id", "salt": "00" * 16, "time": 3, "memory_kib": 1 << 30, "lanes": 4}},
        {"kdf": {"name": "argon2id", "salt": "00" * 16, "time": 1 << 20, "memory_kib": 8 << 10, "lanes": 4}},
        {"kdf": {"name": "argon2id", "salt": "00" * 16, "time": 3.0, "memory_kib": 8 << 10, "lanes": 4}},
        {"kdf": {"name": "argon2id", "salt": "00" * 16, "time": True, "memory_kib": 8 << 10, "lanes": 4}},
        {"kdf": {"name": "argon2id", "salt": "00" * 99, "time": 3, "memory_kib": 8 << 10, "lanes": 4}},
        {"kdf": {"name": "argon2id"}},
        {"kdf": []},
        {"nonce": "zz"},
        {"wrapped": None},
        {"label": "x" * 1000},
        {"label": ["x"]},
        {"epoch": -1},
        {"epoch": 10**4000},
        {"kind": {}},
    ],
)
def test_a_hostile_wrapper_is_refused_before_it_costs_anything(change: dict[str, object]) -> None:
    wrapper_id, data = wrapped(Keyring.new(), SECRETS[0])
    with pytest.raises(PackCorrupt, match="not a key wrapper"):
        parsed(wrapper_id, json.dumps(json.loads(data) | change).encode())


@pytest.mark.parametrize("data", [b"", b"[" * WRAPPER_LIMIT_BYTES, b'{"a":' * 3000, b"7" * 9000, b"\xff", b"[]", b"{}"])
def test_what_is_no_wrapper_is_refused(data: bytes) -> None:
    with pytest.raises(PackCorrupt):
        parsed("0" * 32, data)


def test_a_kind_or_format_of_a_later_version_is_known_as_not_known() -> None:
    wrapper_id, data = wrapped(Keyring.new(), SECRETS[0])
    for change in ({"kind": "retina"}, {"format": 2}):
        assert not parsed(wrapper_id, json.dumps(json.loads(data) | change).encode()).known


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=40)
    | st.sampled_from(["00" * 16, "argon2id"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)
names = st.sampled_from(
    ["format", "kind", "kdf", "nonce", "wrapped", "label", "created", "epoch", "keyring", "tag", "tag_before", "x"]
)


KEYRING = Keyring.new()
MADE = [(way, *wrapped(KEYRING, way, label="office")) for way in (*SECRETS[1:], Unencrypted(), SECRETS[0])]


@given(st.sampled_from(MADE), st.dictionaries(names, values, min_size=1, max_size=3))
@settings(deadline=None)
def test_any_change_of_a_wrapper_is_refused_or_read_and_never_anything_else(
    made: tuple[Secret | Unencrypted, str, bytes], changes: dict[str, Any]
) -> None:
    way, wrapper_id, data = made
    with suppress(PackCorrupt):
        wrapper = parsed(wrapper_id, json.dumps(json.loads(data) | changes).encode())
        # one tag that is right is enough: the other says what an earlier epoch knew
        said = {name: value for name, value in wrapper.fields.items() if name != "tag_before"}
        assert not wrapper.genuine(KEYRING) or said == json.loads(data)
        if wrapper.kind == way.kind:
            assert (wrapper.open_plain() if isinstance(way, Unencrypted) else opened(wrapper, way)) in (None, KEYRING)


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_or_read_and_never_anything_else(data: bytes) -> None:
    with suppress(PackCorrupt):
        parsed("0" * 32, data)


@pytest.mark.parametrize(
    "change",
    [
        {"repository": "00"},
        {"id_key": "00" * 31},
        {"id_key": None},
        {"epochs": {}},
        {"epochs": {"0": "00" * 32}},
        {"epochs": {"65536": "00" * 32}},
        {"epochs": {"1": "00" * 33}},
        {"epochs": {"one": "00" * 32}},
        {"epochs": {"1": "00" * 32, "01": "11" * 32}},
        {"epochs": {str(epoch): "00" * 32 for epoch in range(1, EPOCHS_LIMIT + 2)}},
        {"epochs": ["00" * 32]},
    ],
)
def test_what_is_unwrapped_is_bounded_too(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"key|epochs|invalid"):
        Keyring.from_json(Keyring.new().to_json() | change)


def test_a_secret_that_opens_a_wrapper_around_no_keyring_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    keyring = Keyring.new()
    with monkeypatch.context() as patched:
        patched.setattr(Keyring, "to_json", lambda _: {"id_key": "00"})
        wrapper_id, data = wrapped(keyring, SECRETS[1])
        plain_id, plain = wrapped(keyring, Unencrypted())
    with pytest.raises(PackCorrupt, match="not a keyring"):
        opened(parsed(wrapper_id, data), SECRETS[1])
    with pytest.raises(PackCorrupt, match="no keyring"):
        parsed(plain_id, plain).open_plain()


def test_the_default_cost_is_within_the_bounds() -> None:
    assert Argon2Cost().bounded()
