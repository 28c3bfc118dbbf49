import json
from pathlib import Path

import pytest
from blake3 import blake3

from offhost.chunking.stream import StreamCutter
from support.page_rule import random_bytes
from support.stream_rule import SAMPLES, cut_slowly

VECTORS = json.loads((Path(__file__).parent / "vectors" / "fastcdc-1.json").read_text())


def cut(data: bytes) -> list[list[int]]:
    return [list(piece) for piece in StreamCutter().cut(memoryview(data))]


def test_the_vectors_name_every_sample() -> None:
    assert {case["name"] for case in VECTORS["cases"]} == set(SAMPLES)
    assert StreamCutter().identity == VECTORS["cutter"]


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: case["name"])
def test_the_cuts_are_those_of_the_vectors(case: dict[str, object]) -> None:
    data = SAMPLES[str(case["name"])]
    assert (len(data), blake3(data).hexdigest()) == (case["size_bytes"], case["blake3"])
    assert cut(data) == case["pieces"]


@pytest.mark.parametrize("name", SAMPLES)
def test_the_vectors_follow_from_the_rule_and_its_gear_table(name: str) -> None:
    (pieces,) = [case["pieces"] for case in VECTORS["cases"] if case["name"] == name]
    assert cut_slowly(VECTORS["gear"], SAMPLES[name]) == pieces


def test_pieces_cover_the_stream_within_their_bounds() -> None:
    data = random_bytes("stream", 8 << 20)
    pieces = StreamCutter().cut(memoryview(data))
    assert [piece.start for piece in pieces] == [0, *(piece.end for piece in pieces[:-1])]
    assert pieces[-1].end == len(data)
    assert all(16 << 10 < piece.length <= 256 << 10 for piece in pieces[:-1])


def test_an_insertion_changes_the_cuts_near_it_only() -> None:
    data = random_bytes("stream", 4 << 20)
    before = {length + start - len(data) for start, length in cut(data)}
    after = {length + start - len(data) - 7 for start, length in cut(data[:5000] + b"seven b" + data[5000:])}
    assert len(before & after) >= len(before) - 3
