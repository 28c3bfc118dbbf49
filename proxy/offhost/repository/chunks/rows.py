"""Index entries as sorted rows: what order they lie in, how they are found, how sorted rows are merged.

Owns: the order, comparison of ids by words, what makes two rows one. Does not own: files (segments), which packs count
(standing).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from offhost.ids import ChunkId
from offhost.repository.chunks.packs import ENTRY, Entries

Ids = NDArray[np.uint8]
"""Chunk ids, n × 32."""

Keys = NDArray[np.uint64]
"""The first eight bytes of ids as numbers, big-endian: they sort as ids do."""

_KEYED = np.dtype({"names": ["key"], "formats": [">u8"], "offsets": [0], "itemsize": ENTRY.itemsize})
_WORDED = np.dtype({"names": ["words"], "formats": [("<u8", 4)], "offsets": [0], "itemsize": ENTRY.itemsize})


def as_ids(chunks: Sequence[ChunkId]) -> Ids:
    """Ids in one array."""
    return np.frombuffer(b"".join(chunks), np.uint8).reshape(-1, 32)


def keys_of_ids(ids: Ids) -> Keys:
    """What ids are searched by."""
    return np.ascontiguousarray(ids[:, :8]).view(">u8").reshape(-1).astype(np.uint64)


def words_of_ids(ids: Ids) -> NDArray[np.uint64]:
    """Ids as n × 4 words, which compare faster than bytes."""
    return np.ascontiguousarray(ids).view("<u8")


def key_column(rows: Entries) -> Keys:
    """The keys of rows, as a view into them."""
    return rows.view(_KEYED)["key"]


def word_column(rows: Entries) -> NDArray[np.uint64]:
    """The ids of rows as n × 4 words, as a view into them."""
    return rows.view(_WORDED)["words"]


def put_in_order(rows: Entries) -> Entries:
    """Rows sorted by key, pack and slot. Ids whose keys are equal are not told apart: `find` compares them whole."""
    keys = key_column(rows).astype(np.uint64)
    order = np.argsort(keys, kind="stable")  # fast where sorted rows lie one after the other
    shared = _not_alone(keys[order])
    if shared.any():
        some = order[shared]
        order[shared] = some[np.lexsort((rows["slot"][some], rows["pack"][some], keys[some]))]
    return rows[order]


def _not_alone(keys: Keys) -> NDArray[np.bool_]:
    """Which of sorted keys are there several times."""
    shared = np.zeros(len(keys), np.bool_)
    same = keys[1:] == keys[:-1]
    shared[1:] |= same
    shared[:-1] |= same
    return shared


def sorted_by_id(rows: Entries) -> Entries:
    """Rows sorted by the whole id."""
    keys = key_column(rows).astype(np.uint64)
    order = np.argsort(keys, kind="stable")
    shared = _not_alone(keys[order])
    if shared.any():
        some = order[shared]
        order[shared] = some[np.argsort(_comparable(rows["id"][some]), kind="stable")]
    return rows[order]


def _comparable(ids: NDArray[np.void]) -> NDArray[np.bytes_]:
    """As plain bytes, which numpy can compare; all are of one length, so that padding cannot make two equal."""
    return np.ascontiguousarray(ids).view("S32")


def without_repetitions(rows: Entries) -> Entries:
    """Sorted rows, each once: two segments may have learnt of one pack."""
    if len(rows) < 2:
        return rows
    again = (rows["slot"][1:] == rows["slot"][:-1]) & (rows["pack"][1:] == rows["pack"][:-1])
    again &= (word_column(rows)[1:] == word_column(rows)[:-1]).all(axis=1)
    return rows[np.concatenate([[True], ~again])] if again.any() else rows


def one_of_each(rows: Entries) -> Entries:
    """Of sorted rows, one for each id, in any order."""
    shared = _not_alone(key_column(rows).astype(np.uint64))
    if not shared.any():
        return rows
    doubtful = rows[shared]
    _, first = np.unique(_comparable(doubtful["id"]), return_index=True)
    return np.concatenate([rows[~shared], doubtful[first]])
