"""Entries: what is encoded is decoded, equal keys and ids are found, keys of one hash are told apart."""

from __future__ import annotations

import numpy as np
import pytest

from pmkv.backup.entries import KeyEntries, RowEntries, cut
from pmkv.kernels.location import DELETE


def words(*values: int) -> np.ndarray:
    return np.array(values, np.uint64)


def keyed(slots: list[int], keys: list[bytes], values: list[bytes] | None = None) -> KeyEntries:
    count = len(keys)
    return KeyEntries(
        words(*slots), words(*range(1, count + 1)), keys, np.arange(count), np.zeros(count, np.uint8), values
    )


def test_rows_are_decoded() -> None:
    rows = np.arange(6, dtype=np.uint8).reshape(3, 2)
    entries = RowEntries(words(1, 5, 9), words(64, int(DELETE), 128), rows)
    index, body = entries.encoded()
    assert (len(index), body) == (48, bytes([0, 1, 4, 5]))
    again = RowEntries.decoded(3, index, body, 2)
    assert again.slots.tolist() == [1, 5, 9] and again.is_delete.tolist() == [False, True, False]
    assert again.rows is not None and again.rows.tolist() == [[0, 1], [0, 0], [4, 5]]
    assert RowEntries.decoded(3, index, None, 2).rows is None
    with pytest.raises(ValueError):
        RowEntries.decoded(3, index, body[1:], 2)


def test_records_are_decoded() -> None:
    entries = keyed([3, 3, 8], [b"", b"\0key", b"long" * 9], [b"value", b"", b"\xff" * 3])
    index, body = entries.encoded()
    assert body == b"value\xff\xff\xff"
    again = KeyEntries.decoded(3, index, body)
    assert (again.keys, again.values, again.expiries.tolist()) == (entries.keys, entries.values, [0, 1, 2])
    assert again.slots.tolist() == [3, 3, 8] and again.locations.tolist() == [1, 2, 3]


def test_the_newest_of_each() -> None:
    rows = RowEntries(words(1, 1, 2), words(10, 20, 30), np.zeros((3, 1), np.uint8)).newest()
    assert rows.locations.tolist() == [10, 30]
    records = keyed([1, 1, 1, 2], [b"a", b"b", b"a", b"a"], [b""] * 4).newest()
    assert records.locations.tolist() == [1, 2, 4]  # b"a" and b"b" have one hash


def test_matches() -> None:
    rows = RowEntries(words(1, 4, 9), words(0, 0, 0))
    assert rows.matches(RowEntries(words(4, 8), words(0, 0))).tolist() == [-1, 0, -1]
    assert rows.matches(RowEntries.none(4)).tolist() == [-1, -1, -1]
    records = keyed([1, 1], [b"a", b"b"])
    assert records.matches(keyed([1], [b"b"])).tolist() == [-1, 0]


def test_deletes_have_no_body() -> None:
    assert RowEntries(words(1), words(64)).deletes(4).encoded()[1] == b""
    gone = keyed([1], [b"a"]).deletes()
    assert gone.is_delete.all() and gone.encoded()[1] == b"" and gone.keys == [b"a"]


def test_a_blob_of_another_length_is_refused() -> None:
    assert cut(b"abc", np.array([1, 0, 2])) == [b"a", b"", b"bc"]
    with pytest.raises(ValueError, match="3 bytes"):
        cut(b"abc", np.array([1, 1]))
