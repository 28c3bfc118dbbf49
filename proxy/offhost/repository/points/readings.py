"""The plan of a restore: which chunks are fetched for which span, and where else on the disk they belong.

Owns: finding the places of equal chunks in one part of a disk. Pure. Does not own: reading maps and chunks
(restorepoint).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offhost.chunking.spans import SPAN_BYTES, SpanMap
from offhost.repository.chunks.rows import Ids, keys_of_ids, words_of_ids

_BRIDGED_BYTES = 64 << 10
"""Holes that are shorter, between chunks of one span, are written as zeros: one write instead of two."""

Where = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes of a span's buffer, and where on the disk they belong."""

    low: int
    high: int
    to: int


@dataclass(frozen=True, slots=True)
class Reading:
    """What is fetched for one span, once: `own`, in its places in the span, and all that is to be written of it."""

    own: SpanMap
    writes: Sequence[Write]


def readings(maps: Mapping[int, SpanMap]) -> Iterator[tuple[int, Reading]]:
    """A reading for each of these spans, which ascend: of equal chunks the first is fetched, and written to all places.

    Every byte of every chunk is in one write. Memory: some 100 bytes for each chunk of these spans.
    """
    ends = np.cumsum([len(entries) for entries in maps.values()])
    if not len(ends):
        return
    to = np.concatenate([span * SPAN_BYTES + entries.starts.astype(np.int64) for span, entries in maps.items()])
    lengths = np.concatenate([entries.lengths for entries in maps.values()])
    first = first_of_each(np.concatenate([entries.ids for entries in maps.values()]), lengths)
    again = np.flatnonzero(first != np.arange(len(first)))
    again = again[np.argsort(first[again], kind="stable")]
    of = first[again]
    begin = 0
    for (span, entries), end in zip(maps.items(), ends.tolist(), strict=True):
        own = begin + np.flatnonzero(first[begin:end] == np.arange(begin, end))
        copied = np.sort(again[slice(*np.searchsorted(of, (begin, end)))])
        shift = span * SPAN_BYTES
        writes = list(_joined(to[own] - shift, lengths[own], to[own], own, bridged=_BRIDGED_BYTES))
        writes += _joined(to[first[copied]] - shift, lengths[copied], to[copied], copied)
        kept = own - begin
        yield span, Reading(SpanMap(entries.starts[kept], entries.lengths[kept], entries.ids[kept]), writes)
        begin = end


def first_of_each(ids: Ids, lengths: NDArray[np.uint32]) -> NDArray[np.intp]:
    """For each chunk the position of the first that is equal to it, in id and length: itself, mostly.

    Chunks are brought together by the first bytes of their ids. Should somebody have made up different ones that
    agree in these, equal chunks between them may not be found: they are fetched again.
    """
    order = np.argsort(keys_of_ids(ids), kind="stable")
    words, sizes = words_of_ids(ids)[order], lengths[order]
    leads = np.ones(len(order), np.bool_)
    leads[1:] = (words[1:] != words[:-1]).any(axis=1) | (sizes[1:] != sizes[:-1])
    leaders = np.maximum.accumulate(np.where(leads, np.arange(len(order)), 0))
    first = np.empty(len(order), np.intp)
    first[order] = order[leaders]
    return first


def _joined(
    source: Where, lengths: NDArray[np.uint32], to: Where, entries: NDArray[np.intp], *, bridged: int = 0
) -> Iterator[Write]:
    """Neighbours both in the buffer and on the disk as one write; between entries in a row, a short hole too."""
    if not len(source):
        return
    ends = source + lengths
    gaps = source[1:] - ends[:-1]
    apart = (to[1:] - to[:-1] != source[1:] - source[:-1]) | (gaps < 0) | (gaps > bridged) | (np.diff(entries) != 1)
    heads = np.flatnonzero(np.concatenate([[True], apart]))
    tails = np.concatenate([heads[1:] - 1, [len(source) - 1]])
    for low, high, at in zip(source[heads].tolist(), ends[tails].tolist(), to[heads].tolist(), strict=True):
        yield Write(low, high, at)
