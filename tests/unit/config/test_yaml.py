"""YAML 1.2, and the place of everything in it."""

import pytest

from offhost.config.yaml import Place, dotted, parse


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("22:30", "22:30"),
        ("yes", "yes"),
        ("on", "on"),
        ("010", 10),
        ("0o10", 8),
        ("0x10", 16),
        ("1_000", 1000),
        ("true", True),
        ("2026-01-01", "2026-01-01"),
        ("~", None),
        ("1.5", 1.5),
        ('"12"', "12"),
    ],
)
def test_scalars_are_read_as_yaml_1_2_means_them(written: str, read: object) -> None:
    assert parse(f"key: {written}", "f").data == {"key": read}


def test_places_count_from_one_and_are_kept_for_keys_and_values() -> None:
    document = parse("a:\n  - b: 1\n    c: 2\n", "f")
    assert document.keys["a", 0, "c"] == Place(3, 5)
    assert document.values["a", 0, "c"] == Place(3, 8)


def test_what_is_missing_is_told_at_the_key_around_it() -> None:
    mistake = parse("a:\n  b: {}\n", "f").mistake(("a", "b", "c"), "is missing", hint=None)
    assert str(mistake) == "f:2:3: a.b.c: is missing"


def test_a_path_is_written_as_people_write_it() -> None:
    assert dotted(("select", "include", 0, "name")) == "select.include[0].name"


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? "])
def test_a_file_nested_beyond_all_use_is_refused_where_it_goes_too_far(opening: str) -> None:
    (mistake,) = parse(opening * 3000, "f").mistakes
    assert str(mistake) == f"f:1:{17 * len(opening) + 1}: not YAML: too deeply nested"


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("._", "._"),
        ("!!float abc", "abc"),
        ("!!bool abc", "abc"),
        ("!!int abc", "abc"),
        ("0x" + "f" * 50_000, "0x" + "f" * 50_000),
    ],
)
def test_what_only_claims_to_be_a_number_is_text(written: str, read: str) -> None:
    assert parse(f"key: {written}", "f").data == {"key": read}


@pytest.mark.parametrize("text", [r'x: "\UFFFFFFFF"', f"%YAML {'9' * 5000}.1\n---\nx: 1", "%YAML 1.99\n---\nx: 1"])
def test_numbers_that_break_the_parser_itself_are_told_in_words(text: str) -> None:
    (mistake,) = parse(text, "f").mistakes
    assert str(mistake) == "f:1:1: not YAML: it cannot be read"


def test_broken_yaml_is_told_where_it_breaks() -> None:
    (mistake,) = parse("a: 1\n b: 2\n", "f").mistakes
    assert str(mistake).startswith("f:2:3: not YAML")
