"""Whatever a file holds, it is read or refused in words."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from offhost.config.job import Job
from offhost.config.load import _validated
from offhost.config.proxy import Proxy
from offhost.config.section import Section
from offhost.config.yaml import parse

KEYS = sorted(
    {*Proxy.model_fields, *Job.model_fields, *Job.later, "include", "name", "cron", "main", "policy", "1", "~"}
)
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["10%", "15m"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)


def read(model: type[Section], text: str) -> None:
    """Read as `load` does; every mistake has a place and words."""
    document = parse(text, "file.yaml")
    if document.data is not None:
        _validated(document, model)
    for mistake in document.mistakes:
        assert mistake.line is not None
        assert mistake.line >= 1
        assert mistake.message
        assert str(mistake).startswith("file.yaml:")


@given(st.sampled_from([Proxy, Job]), VALUES)
def test_any_data_is_read_or_refused_at_a_place(model: type[Section], value: Any) -> None:
    read(model, json.dumps(value))


@given(st.sampled_from([Proxy, Job]), st.text(alphabet="ab:-{}[]\"'&*!|>#%@ \n\t0~?,", max_size=40))
def test_any_text_is_read_or_refused_at_a_place(model: type[Section], text: str) -> None:
    read(model, text)


@given(st.text(max_size=20))
def test_any_characters_are_read_or_refused_at_a_place(text: str) -> None:
    read(Job, text)
