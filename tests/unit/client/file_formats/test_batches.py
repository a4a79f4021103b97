"""Names of columns, and the checksum of rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pmkv_client.file_formats.batches import FileError, checksum, chosen

PATH = Path("x.parquet")


def test_columns_are_chosen() -> None:
    known = ["a", "id", "b"]
    assert chosen(known, None, None, PATH) == ("id", ["a", "b"])
    assert chosen(known, ["b"], "a", PATH) == ("a", ["b"])
    assert chosen(known, ["id"], None, PATH) == (None, ["id"])
    assert chosen(["a", "b"], None, None, PATH) == (None, ["a", "b"])
    for columns, id_column in ((["z"], None), (None, "z")):
        with pytest.raises(FileError, match=r"no column 'z'; there are a, id, b"):
            chosen(known, columns, id_column, PATH)
    with pytest.raises(FileError, match="no column but that of the ids"):
        chosen(["id"], None, None, PATH)


@pytest.mark.parametrize("row", ["u1", ("f4", 3), ("f4", 64), [("a", "f4"), ("b", "S5")]])
def test_a_checksum_depends_on_rows_and_not_on_their_order(row: object) -> None:
    dtype = np.dtype(row)  # type: ignore[call-overload]
    ids, rng = np.arange(5000), np.random.default_rng(1)
    raw = rng.integers(0, 256, (5000, dtype.itemsize), np.uint8)
    whole = checksum(ids, raw)
    order = rng.permutation(5000)
    assert checksum(ids[order], raw[order]) == whole
    assert (checksum(ids[:77], raw[:77]) + checksum(ids[77:], raw[77:])) % 2**64 == whole
    for change in (1, 0x80):
        other = raw.copy()
        other[4321, -1] ^= change
        assert checksum(ids, other) != whole
    assert checksum(ids + 1, raw) != whole and checksum(ids[:0], raw[:0]) == 0


def test_two_flipped_signs_do_not_cancel_out() -> None:
    rows = np.random.default_rng(2).random((1, 64))
    other = rows.copy()
    other[0, [3, 9]] *= -1
    assert checksum(np.arange(1), rows) != checksum(np.arange(1), other)
