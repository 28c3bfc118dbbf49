"""Every parser of what a repository holds, fed with anything: it parses, or says what is wrong in offhost's own terms.

What once went wrong, or nearly, lies in `corpus/<parser>/` and is tried again for ever. To add what was found: write
the bytes to a file there.
"""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from faults.campaign import LONG, TIMES, Tally
from faults.parsers import PARSERS, TAKEN
from offhost.errors import OffhostError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

CORPUS = Path(__file__).parent / "corpus"
OLD = sorted(path.relative_to(CORPUS) for path in CORPUS.rglob("*") if path.is_file())
EXAMPLES = settings(
    max_examples=10_000 if LONG else 40 * TIMES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=not LONG,
)

ANY_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 70), 1 << 70)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["../../x", "/etc/passwd", "\ud800", "0" * 64, "a" * 32, 10**400, "1e999", -1, 1 << 63]),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=8), children, max_size=4),
    max_leaves=8,
)


@st.composite
def mutated(draw: st.DrawFn, origins: list[bytes]) -> bytes:
    """Bytes that a parser takes, changed in a few places."""
    data = bytearray(draw(st.sampled_from(origins)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        match draw(st.sampled_from(["overwrite", "insert", "cut", "repeat", "end"])):
            case "overwrite":
                new = draw(
                    st.sampled_from([b"\xff\xff\xff\xff", bytes(4), b"\x00\x00\x00\x80", b"\x01"])
                    | st.binary(max_size=8)
                )
                data[at : at + len(new)] = new
            case "insert":
                data[at:at] = draw(st.binary(max_size=40))
            case "cut":
                del data[at : at + draw(st.integers(1, 40))]
            case "repeat":
                data[at:at] = data[at : at + 40] * draw(st.sampled_from([1, 2, 100]))
            case _:
                del data[at:]
    return bytes(data)


@st.composite
def rephrased(draw: st.DrawFn, origins: list[bytes]) -> bytes:
    """JSON that a parser takes, with some values exchanged for any."""
    value = json.loads(draw(st.sampled_from(origins)))
    for _ in range(draw(st.integers(1, 3))):
        _exchange(draw, value)
    return json.dumps(value).encode()


def _exchange(draw: st.DrawFn, value: Any) -> None:
    """Replace one thing somewhere below a list or dictionary."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    if not keys:
        return
    key = draw(st.sampled_from(keys))
    if isinstance(value[key], dict | list) and value[key] and draw(st.booleans()):
        _exchange(draw, value[key])
    else:
        value[key] = draw(ANY_JSON)


def anything(parser: str) -> st.SearchStrategy[bytes]:
    """Bytes for a parser."""
    found = st.binary(max_size=300)
    if origins := TAKEN[parser]:
        found |= mutated(origins)
        with suppress(ValueError):
            json.loads(origins[0])
            found |= rephrased(origins)
    return found


@pytest.mark.parametrize("parser", PARSERS)
def test_a_parser_takes_what_is_right(parser: str) -> None:
    for data in TAKEN[parser]:
        PARSERS[parser](data)


@pytest.mark.parametrize("parser", PARSERS)
def test_a_parser_refuses_in_its_own_words(parser: str, tally: Tally) -> None:
    @EXAMPLES
    @given(anything(parser))
    def feed(data: bytes) -> None:
        tally.count("bytes fed to parsers", 1, 0)
        with suppress(OffhostError):
            PARSERS[parser](data)

    feed()


@pytest.mark.parametrize("old", OLD, ids=str)
def test_what_once_went_wrong_is_refused(old: Path, tally: Tally) -> None:
    tally.count("bytes of the corpus", 1, 0)
    with suppress(OffhostError):
        PARSERS[old.parts[0]]((CORPUS / old).read_bytes())
