"""Keys that people keep: a recovery key survives being copied by hand, a key file says what is wrong with it."""

import itertools
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offhost.errors import Conflict, UsageError
from offhost.repository.keys.credentials import KeyFile, RecoveryKey

recovery_keys = st.binary(min_size=20, max_size=20).map(RecoveryKey)
ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


@given(recovery_keys)
def test_a_recovery_key_is_read_back(key: RecoveryKey) -> None:
    assert RecoveryKey.parse(key.text()) == key
    assert [len(group) for group in key.text().split("-")] == [5] * 8


@given(recovery_keys, st.sampled_from(["", " ", "  ", "\n", " - "]))
def test_it_does_not_matter_how_it_is_grouped_and_written(key: RecoveryKey, between: str) -> None:
    assert RecoveryKey.parse(f"  {key.text().replace('-', between).lower()}\n") == key
    assert RecoveryKey.parse(key.text().replace("0", "o").replace("1", "l")) == key


@given(recovery_keys, st.integers(0, 39), st.sampled_from(ALPHABET))
def test_any_one_wrong_character_is_noticed_and_its_group_named(key: RecoveryKey, at: int, other: str) -> None:
    typed = key.text().replace("-", "")
    if typed[at] == other:
        return
    with pytest.raises(UsageError, match=f"in group {at // 5 + 1} of 8"):
        RecoveryKey.parse(typed[:at] + other + typed[at + 1 :])


@given(recovery_keys)
def test_exchanged_characters_and_groups_are_noticed(key: RecoveryKey) -> None:
    groups = key.text().split("-")
    for one, other in itertools.combinations(range(5), 2):
        typed = list(groups[0])
        typed[one], typed[other] = typed[other], typed[one]
        if typed != list(groups[0]):
            with pytest.raises(UsageError, match="in group 1 of 8"):
                RecoveryKey.parse("-".join(["".join(typed), *groups[1:]]))
    for one, other in itertools.combinations(range(8), 2):
        swapped = groups.copy()
        swapped[one], swapped[other] = swapped[other], swapped[one]
        with pytest.raises(UsageError, match=f"in group .*{one + 1}.*{other + 1} of 8" if swapped != groups else ""):
            RecoveryKey.parse("-".join(swapped))


def test_a_forgotten_character_is_found_in_its_group() -> None:
    groups = RecoveryKey.new().text().split("-")
    groups[3] = groups[3][:-1]
    with pytest.raises(UsageError, match="in group 4 of 8"):
        RecoveryKey.parse("-".join(groups))
    with pytest.raises(UsageError, match="39 characters, where 40"):
        RecoveryKey.parse("".join(groups))


@given(st.text(max_size=200))
def test_what_is_no_key_is_refused_without_showing_it(text: str) -> None:
    for parse in (RecoveryKey.parse, lambda text: KeyFile.parse(text, "x")):
        with pytest.raises(UsageError) as refused:
            parse(text)
        assert len(text) < 5 or text not in str(refused.value)


def test_a_key_file_is_made_for_its_owner_alone_and_read_back(tmp_path: Path) -> None:
    path, key = tmp_path / "key", KeyFile.new()
    key.save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert KeyFile.parse(path.read_text(), "x") == key
    assert key.key.hex() not in repr(key)


def test_a_key_file_is_never_written_over(tmp_path: Path) -> None:
    path = tmp_path / "key"
    KeyFile.new().save(path)
    before = path.read_text()
    with pytest.raises(Conflict, match="exists already"):
        KeyFile.new().save(path)
    assert path.read_text() == before


@given(st.integers(0, 91), st.characters(codec="ascii"))
def test_a_changed_key_file_is_refused(at: int, other: str) -> None:
    text = KeyFile(bytes(range(32))).text()
    changed = text[:at] + other + text[at + 1 :]
    if changed.split() == text.split() or changed.lower() == text:
        return
    with pytest.raises(UsageError):
        KeyFile.parse(changed, "x")
