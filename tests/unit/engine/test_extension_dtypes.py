"""Short floats: kept by name on the medium, converted as NumPy's floats are, pooled in f4."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from pmkv.engine.engine import Engine
from pmkv.engine.extension_dtypes import EXTENSIONS, is_extension, is_float, with_extensions
from pmkv.engine.row_schema import descr_of, dtype_from, row_dtype
from pmkv.errors import InvalidError
from tests.engines import small_engine

each = pytest.mark.parametrize("name", EXTENSIONS)
VALUES = np.array([[1, -2.5], [0.125, 24]], "f4")  # which all of them hold


@each
def test_a_description_gives_the_dtype_again(name: str) -> None:
    dtype = np.dtype(getattr(ml_dtypes, name))
    assert is_extension(dtype) and is_float(dtype) and with_extensions(name) == dtype
    for given in (name, dtype, (name, 3), (dtype, (2, 3))):
        row = row_dtype(given)
        assert row.base == dtype and dtype_from(descr_of(row)) == row
    assert descr_of(row_dtype((name, 3))) == [name, [3]]


def test_other_extensions_are_refused() -> None:
    for dtype in (
        ml_dtypes.float8_e4m3b11fnuz,
        ml_dtypes.int4,
        [("a", ml_dtypes.bfloat16)],
        [("a", ml_dtypes.float8_e5m2)],
    ):
        with pytest.raises(InvalidError, match="extension of NumPy"):
            row_dtype(dtype)


@each
def test_rows_go_in_and_out(name: str) -> None:
    engine = small_engine()
    table = engine.create_table("t", (name, 2), default=0.5)
    table.put([1, 2], VALUES)
    rows = table.get([2, 1, 9])
    assert rows.dtype.name == name and rows.astype("f4").tolist() == [[0.125, 24], [1, -2.5], [0.5, 0.5]]
    assert table.get([9], default=2).astype("f4").tolist() == [[2, 2]]
    pooled = table.pool([1, 2], [0], mode="sum")
    assert pooled.dtype == np.float32 and pooled.tolist() == [[1.125, 21.5]]
    table.add([1], [[1, 0.5]])
    assert table.get([1]).astype("f4").tolist() == [[2, -2]]
    again = Engine.on_medium(engine.pool.medium)
    assert again.table("t").get([1, 2]).tobytes() == table.get([1, 2]).tobytes()
    assert again.table("t").dtype.name == name


@each
def test_what_does_not_fit_is_refused(name: str) -> None:
    table = small_engine().create_table("t", (name, 2))
    with pytest.raises(InvalidError, match="does not fit"):
        table.put([1], [[1e39, 0]])
    with pytest.raises(InvalidError, match="does not fit"):
        table.get([1], default=1e39)
    other = small_engine().create_table("t", ("i4", 2))
    with pytest.raises(InvalidError, match="convert them first"):
        other.put([1], VALUES[:1].astype(getattr(ml_dtypes, name)))


@each
def test_tensors_share_the_bits(name: str) -> None:
    torch = pytest.importorskip("torch")
    table = small_engine().create_table("t", (name, 2))
    table.put([1, 2], torch.tensor(VALUES).to(getattr(torch, name)))
    tensor = table.get([1, 2], as_="torch")
    assert tensor.dtype == getattr(torch, name) and tensor.float().tolist() == VALUES.tolist()
