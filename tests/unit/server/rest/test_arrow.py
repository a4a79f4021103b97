"""Arrow streams: round trips with pyarrow, refusals, and what happens where pyarrow is not installed."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from pmkv_server.rest.arrow import is_lists, lists, read_arrow, to_array, write_arrow
from pmkv_server.rest.problems import Problem

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'pmkv[arrow]'")

STRUCT = np.dtype([("price", "f4"), ("emb", "f2", (2,)), ("name", "S4"), ("tag", "U3")])
KINDS = ["?", "i1", "u2", "i8", "u8", "f2", "f4", "f8", ">i4", "M8[ms]", "m8[s]", "S4", "U4"]


def stream(**columns: object) -> bytes:
    batch = pa.record_batch(list(columns.values()), names=list(columns))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as out:
        out.write_batch(batch)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 2)], ids=str)
@pytest.mark.parametrize("count", [0, 1, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_round_trip(kind: str, count: int, shape: tuple[int, ...]) -> None:
    rows = (np.arange(count * int(np.prod(shape))) % 2).reshape(count, *shape).astype(kind)
    back = to_array(read_arrow(write_arrow({"rows": rows}))["rows"], rows.dtype, shape, "rows")
    assert np.array_equal(back, rows) and back.shape == rows.shape


def test_structures() -> None:
    rows = np.array([(1.5, [1, 2], b"ab", "xy"), (2.5, [3, 4], b"\xff", "é")], STRUCT)
    columns = read_arrow(write_arrow({"ids": np.arange(2), "rows": rows}))
    assert pa.types.is_struct(columns["rows"].type)
    assert np.array_equal(to_array(columns["rows"], STRUCT, (), "rows"), rows)


def test_strings_are_taken_as_utf8() -> None:
    column = read_arrow(stream(rows=pa.array(["é", "b"])))["rows"]
    assert to_array(column, np.dtype("S2"), (), "rows").tolist() == ["é".encode(), b"b"]


def test_bags() -> None:
    column = read_arrow(stream(ids=pa.array([[1, 2], [], [3]])))["ids"]
    assert is_lists(column)
    values, offsets = lists(column, "ids")
    assert values.to_pylist() == [1, 2, 3] and offsets.tolist() == [0, 2, 2]
    assert lists(column.slice(1), "ids")[1].tolist() == [0, 0]
    assert not is_lists(read_arrow(stream(ids=pa.array([1])))["ids"])


REFUSED = {
    "nulls": (pa.array([1, None]), "i8", ()),
    "nulls within": (pa.array([[1, None]]), "f4", (2,)),
    "floats for integers": (pa.array([1.5]), "i8", ()),
    "text for numbers": (pa.array(["1"]), "f4", ()),
    "too few": (pa.array([[1.0], [2.0, 3.0]]), "f4", (2,)),
    "no lists": (pa.array([1.0]), "f4", (2,)),
    "no struct": (pa.array([1.0]), STRUCT, ()),
    "a field missing": (pa.array([{"price": 1.0}]), STRUCT, ()),
    "too long": (pa.array(["abc"]), "S2", ()),
}


@pytest.mark.parametrize(("column", "dtype", "shape"), REFUSED.values(), ids=REFUSED.keys())
def test_what_does_not_fit(column: object, dtype: object, shape: tuple[int, ...]) -> None:
    with pytest.raises(Problem) as problem:
        to_array(column, np.dtype(dtype), shape, "rows")  # type: ignore[call-overload]
    assert problem.value.status == 400


@pytest.mark.parametrize("body", [b"", b"noise" * 50, stream(ids=pa.array([1, 2, 3]))[:-40]], ids=["", "noise", "cut"])
def test_what_is_no_stream(body: bytes) -> None:
    with pytest.raises(Problem) as problem:
        read_arrow(body)
    assert problem.value.status == 400


def test_columns_of_unequal_length_are_refused() -> None:
    with pytest.raises(Problem) as problem:
        write_arrow({"ids": np.arange(2), "rows": np.arange(3)})
    assert problem.value.status == 406


def test_without_pyarrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(Problem, match="no pyarrow") as problem:
        read_arrow(b"")
    assert problem.value.status == 415
