from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offhost.chunking.spans import SPAN_BYTES, ChunkRef, SpanMap
from offhost.errors import PackCorrupt
from offhost.ids import ChunkId
from offhost.repository.points.leaves import (
    MAX_DEPTH,
    Patch,
    apply,
    decode,
    difference,
    encode_keyframe,
    encode_patch,
    span_digest,
)


@st.composite
def span_maps(draw: st.DrawFn) -> SpanMap:
    """Few different starts, lengths and ids, so that two maps share entries now and then."""
    at, refs = 0, []
    for gap, length, name in draw(
        st.lists(st.tuples(st.sampled_from([0, 4096]), st.sampled_from([4096, 8192]), st.integers(0, 3)), max_size=12)
    ):
        refs.append(ChunkRef(at + gap, length, ChunkId(bytes([name]) * 32)))
        at += gap + length
    return SpanMap.of(refs)


@given(span_maps())
def test_a_keyframe_reads_back_as_it_was(entries: SpanMap) -> None:
    assert decode(encode_keyframe(entries)) == entries


@given(span_maps(), span_maps())
def test_a_patch_applied_to_its_parent_gives_the_new_entries(old: SpanMap, new: SpanMap) -> None:
    decoded = decode(encode_patch(Patch(1, ChunkId(bytes(32)), difference(old, new))))
    assert isinstance(decoded, Patch)
    assert apply(old, decoded.splices) == new


@given(span_maps(), span_maps())
def test_two_spans_have_one_digest_only_when_they_are_equal(one: SpanMap, other: SpanMap) -> None:
    key = bytes(32)
    assert (span_digest(one, key) == span_digest(other, key)) == (one == other)


def test_a_patch_of_one_changed_chunk_is_small() -> None:
    refs = [ChunkRef(at * 65536, 65536, ChunkId(bytes([at % 256, at // 256]) * 16)) for at in range(512)]
    changed = [*refs[:100], ChunkRef(100 * 65536, 65536, ChunkId(b"x" * 32)), *refs[101:]]
    splices = difference(SpanMap.of(refs), SpanMap.of(changed))
    assert len(splices.entries) == 1
    assert len(encode_patch(Patch(1, ChunkId(bytes(32)), splices))) < 200


@given(span_maps(), st.integers(0, 2000), st.integers(0, 255))
def test_a_damaged_leaf_is_refused_or_within_its_span(entries: SpanMap, at: int, value: int) -> None:
    leaf = bytearray(encode_keyframe(entries))
    leaf[at % len(leaf)] = value
    try:
        decoded = decode(bytes(leaf))
    except PackCorrupt:
        return
    found = decoded if isinstance(decoded, SpanMap) else decoded.splices.entries
    assert all(ref.start + ref.length <= SPAN_BYTES for ref in found)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_never_do_more_than_fail(leaf: bytes) -> None:
    with suppress(PackCorrupt):
        decode(leaf)


def test_a_patch_deeper_than_the_format_allows_is_refused() -> None:
    empty = difference(SpanMap.of([]), SpanMap.of([]))
    with pytest.raises(PackCorrupt, match="depth"):
        decode(encode_patch(Patch(MAX_DEPTH + 1, ChunkId(bytes(32)), empty)))


def test_a_patch_that_does_not_fit_its_parent_is_refused() -> None:
    old = SpanMap.of([ChunkRef(0, 4096, ChunkId(bytes(32)))])
    with pytest.raises(PackCorrupt, match="fit"):
        apply(SpanMap.of([]), difference(old, SpanMap.of([])))
