"""Schemas of tables: dtypes through JSON and back, and dtypes and bounds that are refused."""

from __future__ import annotations

import numpy as np
import orjson
import pytest

from pmkv.engine.engine import Engine
from pmkv.engine.row_schema import check_bound, descr_of, dtype_from, row_dtype
from pmkv.errors import InvalidError
from pmkv.media.memory import MemoryMedium
from tests.unit.engine.test_table import DTYPES


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_description_survives_json(dtype: object) -> None:
    row = row_dtype(dtype)
    assert dtype_from(descr_of(row)) == row
    assert dtype_from(orjson.loads(orjson.dumps(descr_of(row)))) == row


@pytest.mark.parametrize("dtype", ["O", "V0", [("a", "O")], ("f4", (1 << 20,)), "no such"], ids=str)
def test_dtypes_without_a_fixed_size_are_refused(dtype: object) -> None:
    with pytest.raises(InvalidError):
        row_dtype(dtype)


@pytest.mark.parametrize(
    "dtype",
    [("f4", -1), {"names": ["a", "b"], "formats": ["f4", "f4"], "offsets": [4, 0]},
     {"names": ["a", "b"], "formats": ["f4", "f4"], "offsets": [0, 2]}],
    ids=["negative", "in another order", "overlapping"],
)  # fmt: skip
def test_dtypes_that_cannot_be_described_are_refused(dtype: object) -> None:
    with pytest.raises(InvalidError, match="is no NumPy dtype for rows"):
        row_dtype(dtype)


@pytest.mark.parametrize("rows", [0, -1, (1 << 47) + 1, 1 << 62, 2.5, "10"])
def test_a_dense_table_too_large_is_refused_before_it_is_written_down(rows: object) -> None:
    """Written down and impossible to make, it would keep the store from ever opening again."""
    medium = MemoryMedium(1 << 20)
    engine = Engine.on_medium(medium, 1 << 16)
    with pytest.raises(InvalidError, match=r"a dense table has 1 to [\d,]+ rows"):
        engine.create_table("t", "f4", rows=rows)
    assert Engine.on_medium(medium).tables == {}


def test_rows_may_be_a_number_of_numpy() -> None:
    assert check_bound(np.int64(5)) == 5
