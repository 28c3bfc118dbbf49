"""A secret is followed when needed, and never shown."""

from pathlib import Path

import pytest

from offhost.config import Secret
from offhost.errors import ConfigError


def test_each_kind_of_reference_is_followed(tmp_path: Path) -> None:
    (tmp_path / "pass").write_text("from file\n")
    environment = {"CREDENTIALS_DIRECTORY": str(tmp_path), "PASS": "from env"}
    assert Secret("file", str(tmp_path / "pass")).resolve({}) == "from file"
    assert Secret("credential", "pass").resolve(environment) == "from file"
    assert Secret("env", "PASS").resolve(environment) == "from env"


def test_blanks_that_belong_to_a_password_stay(tmp_path: Path) -> None:
    (tmp_path / "pass").write_text(" a b \r\n")
    assert Secret("file", str(tmp_path / "pass")).resolve({}) == " a b "


@pytest.mark.parametrize(
    "text", ["hunter2", "{file relative}", "{credential ../vc}", "{env }", "{vault a}", "{env A} {env B}", ""]
)
def test_what_is_no_reference_is_not_taken_for_one(text: str) -> None:
    assert Secret.parse(text) is None


@pytest.mark.parametrize("secret", [Secret("env", "NOPE"), Secret("file", "/nope"), Secret("credential", "nope")])
def test_a_reference_that_leads_nowhere_is_told_with_a_hint(secret: Secret) -> None:
    with pytest.raises(ConfigError) as caught:
        secret.resolve({})
    assert str(secret) in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize("content", [b"", b"\n", b"s3cret\xff", b"x" * 70_000])
def test_a_file_that_cannot_be_a_secret_is_refused_without_showing_it(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "pass").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        Secret("file", str(tmp_path / "pass")).resolve({})
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_nothing_that_is_printed_of_a_secret_holds_it(tmp_path: Path) -> None:
    (tmp_path / "pass").write_text("s3cret")
    secret = Secret("file", str(tmp_path / "pass"))
    assert secret.resolve({}) == "s3cret"
    assert "s3cret" not in repr(secret) + str(secret)
