"""FORMAT.md says what the code does, where it can be held to it."""

import json
from pathlib import Path

import pytest

import offhost.repository
from support.page_rule import PAGE, page_hash, page_of_unseen_bytes, random_bytes, sampled_words

TEXT = Path(offhost.repository.__file__).with_name("FORMAT.md").read_text()
VECTORS = json.loads(
    (Path(__file__).parents[1] / "unit" / "chunking" / "vectors" / "page-1.json").read_text()
)  # fmt: skip
SECRET = bytes.fromhex(VECTORS["secret"])


def lengths(case: dict[str, object]) -> list[str]:
    """A span's pieces and holes as FORMAT.md writes them."""
    at, found = 0, []
    for start, length in [*pieces_of(case), (int(str(case["size_bytes"])), 0)]:
        found += [f"({_pages(start - at)})"] if start > at else []
        found += [_pages(length)] if length else []
        at = start + length
    return found


def pieces_of(case: dict[str, object]) -> list[tuple[int, int]]:
    pieces = case["pieces"]
    assert isinstance(pieces, list)
    return [(start, length) for start, length in pieces]


def _pages(size_bytes: int) -> str:
    whole, rest = divmod(size_bytes, PAGE)
    return f"{whole}+{rest}" if rest else str(whole)


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: case["name"])
def test_the_cuts_in_the_document_are_those_of_the_vectors(case: dict[str, object]) -> None:
    said = " ".join(lengths(case))
    if case["name"] == "constant pages that may end a piece, and 100 bytes":
        assert said == "4 " * 50 + "0+100"
        said = "50 pieces of 4, then 0+100"
    assert said in " ".join(TEXT.split())


def test_the_hashes_in_the_document_are_those_of_the_rule() -> None:
    words, multipliers = sampled_words(SECRET)
    pages = bytes(PAGE), page_of_unseen_bytes(SECRET), b"\xff" * PAGE, random_bytes("random", PAGE)
    stated = TEXT.partition("h of a page")[2].partition("Spans, and")[0].split("\n")
    for page, line in zip(pages, stated, strict=False):
        assert line.endswith(f" {page_hash(page, words, multipliers):016x}")
    flat = " ".join(TEXT.split())
    assert " ".join(map(str, words)) in flat
    assert f"{multipliers[0]:016x}, {multipliers[31]:016x}" in flat
    assert SECRET.hex() in flat
