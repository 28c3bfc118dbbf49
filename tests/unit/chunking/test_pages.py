import json
import struct
from pathlib import Path

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from offhost.chunking.pages import PageCutter
from support.page_rule import (
    PAGE,
    SAMPLES,
    cut_slowly,
    page_of_unseen_bytes,
    postgresql_pages,
    random_bytes,
    sampled_words,
)

VECTORS = json.loads((Path(__file__).parent / "vectors" / "page-1.json").read_text())
SECRET = bytes.fromhex(VECTORS["secret"])


def cut(data: bytes, secret: bytes = SECRET) -> list[tuple[int, int]]:
    return [(piece.start, piece.length) for piece in PageCutter(secret).cut(memoryview(data))]


def test_the_vectors_name_every_sample() -> None:
    assert {case["name"] for case in VECTORS["cases"]} == set(SAMPLES)
    assert PageCutter(SECRET).identity == VECTORS["cutter"]


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: case["name"])
def test_the_cuts_are_those_of_the_vectors(case: dict[str, object]) -> None:
    data = SAMPLES[str(case["name"])](SECRET)
    assert (len(data), blake3(data).hexdigest()) == (case["size_bytes"], case["blake3"])
    assert [list(piece) for piece in cut(data)] == case["pieces"]


def test_the_vectors_words_and_multipliers_follow_from_the_secret() -> None:
    words, multipliers = sampled_words(SECRET)
    assert words == VECTORS["words"]
    assert [f"{multiplier:016x}" for multiplier in multipliers] == VECTORS["multipliers"]


@pytest.mark.parametrize("name", SAMPLES)
def test_the_cuts_are_those_of_the_rule_spelt_out_slowly(name: str) -> None:
    secret = random_bytes("another secret", 32)
    data = SAMPLES[name](secret)
    assert cut(data, secret) == cut_slowly(secret, data)


@settings(max_examples=60, deadline=None)
@given(
    runs=st.lists(st.tuples(st.sampled_from([0, 0, 1, 2, 3]), st.integers(1, 9)), max_size=12),
    cut_off=st.sampled_from([0, 1, 512, 4095]),
    secret=st.binary(min_size=32, max_size=32),
)
def test_any_bytes_are_cut_as_the_rule_says(runs: list[tuple[int, int]], cut_off: int, secret: bytes) -> None:
    kinds = [bytes(PAGE), random_bytes("x", PAGE), page_of_unseen_bytes(secret), b"\x01" * PAGE]
    data = b"".join(kinds[kind] * count for kind, count in runs)
    data = data[: max(len(data) - cut_off, 0)]
    assert cut(data, secret) == cut_slowly(secret, data)


def test_a_page_is_looked_at_once_in_each_128_bytes_and_twice_at_each_position() -> None:
    words, multipliers = sampled_words(SECRET)
    assert [word // 16 for word in words] == list(range(32))
    assert sorted(word % 16 for word in words) == sorted(list(range(16)) * 2)
    assert all(multiplier % 2 for multiplier in multipliers)


@pytest.mark.parametrize("varying_byte", range(0, 128, 8))
def test_a_table_whose_tuples_differ_in_one_field_only_is_cut_about_as_often_as_random_bytes(varying_byte: int) -> None:
    pages = memoryview(postgresql_pages(400, varying_byte=varying_byte))
    for name in ("one", "two", "three"):
        _, ends = PageCutter(random_bytes(name, 32)).scan(pages)
        assert 0.05 < np.count_nonzero(ends) / len(ends) < 0.13


def covered(pieces: list[tuple[int, int]]) -> int:
    return sum(length for _, length in pieces)


def test_a_page_of_unseen_bytes_is_data_not_a_hole() -> None:
    assert covered(cut(page_of_unseen_bytes(SECRET) * 8)) == 8 * PAGE


def test_three_zero_pages_are_data_and_four_are_a_hole() -> None:
    data = random_bytes("data", 4 * PAGE)
    assert covered(cut(data + bytes(3 * PAGE) + data)) == 11 * PAGE
    assert cut(data + bytes(4 * PAGE) + data[:PAGE]) == [(0, 4 * PAGE), (8 * PAGE, PAGE)]


def test_only_zero_pages_inside_the_span_make_a_hole_and_a_short_last_one_counts() -> None:
    data = random_bytes("data", PAGE)
    assert covered(cut(bytes(3 * PAGE) + data + bytes(3 * PAGE))) == 7 * PAGE
    assert cut(bytes(4 * PAGE) + data + bytes(3 * PAGE + 1)) == [(4 * PAGE, PAGE)]


def test_pieces_keep_their_bounds_and_their_mean() -> None:
    data = random_bytes("much", 32 << 20)
    pieces = cut(data)
    assert all(16 << 10 <= length <= 256 << 10 for _, length in pieces[:-1])
    assert sum(length for _, length in pieces) == len(data)
    assert 55_000 < len(data) / len(pieces) < 67_000


def test_another_secret_cuts_elsewhere() -> None:
    data = random_bytes("data", 4 << 20)
    ours, theirs = set(cut(data)), set(cut(data, bytes(32)))
    assert len(ours & theirs) < len(ours) / 10


def test_what_was_moved_by_whole_pages_is_cut_alike() -> None:
    data = random_bytes("data", 4 << 20)
    moved = {(start - 3 * PAGE, length) for start, length in cut(random_bytes("before", 3 * PAGE) + data)}
    assert len(moved & set(cut(data))) > 0.9 * len(moved)


def test_bytes_need_not_be_aligned_in_memory() -> None:
    data = random_bytes("data", (1 << 20) + 100)
    assert PageCutter(SECRET).cut(memoryview(b"abc" + data)[3:]) == PageCutter(SECRET).cut(memoryview(data))


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_secret_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        PageCutter(bytes(length))


def test_little_endian_words_are_summed_whatever_the_machine() -> None:
    page = struct.pack("<512Q", *range(512))
    assert cut(page * 5) == cut_slowly(SECRET, page * 5)
