"""Requests of arrays as people have them; tests/unit/engine/test_array_forms.py has the conversions themselves."""

from __future__ import annotations

import numpy as np
import pytest

import pmkv_client.requests as protocol
from pmkv_client.arrays import FORMS
from pmkv_client.requests import TableInfo

ITEMS = TableInfo("items", 7, np.dtype("<f4"), (2,), None)
CITIES = TableInfo("cities", 8, np.dtype([("price", "<f4"), ("name", "S4")]), (), None)


def test_results_have_the_shape_of_the_ids() -> None:
    work = protocol.get(ITEMS, [[1, 2, 3]], return_found=True)
    rows, found = work.join([[np.arange(6, dtype="<f4").tobytes(), b"\1\0\1"]])
    assert rows.tolist() == [[[0, 1], [2, 3], [4, 5]]] and found.tolist() == [[True, False, True]]
    assert protocol.contains(ITEMS, [[1], [2]]).join([b"\0\1"]).tolist() == [[False], [True]]
    assert protocol.get(ITEMS, 5).join([b"\0" * 8]).shape == (2,)
    found = protocol.gather([ITEMS, CITIES], {"items": [[1]], "cities": 3}).join([[b"\0" * 8, b"\0" * 8]])
    assert found["items"].shape == (1, 1, 2) and found["cities"].shape == ()


def test_rows_have_the_shape_of_the_ids() -> None:
    work = protocol.put(ITEMS, [[1, 2]], np.ones((1, 2, 2)))
    assert bytes(work.calls[0][2]) == np.array([1, 2], "<i8").tobytes() and len(work.calls[0][3]) == 16
    with pytest.raises(ValueError, match=r"2 ids of table 'items' need \(1, 2, 2\)"):
        protocol.put(ITEMS, [[1, 2]], np.ones((2, 2)))


@pytest.mark.parametrize("width", [2, 1 << 14])  # the second is read into place, past redis-py's parser
def test_memory_to_fill(width: int) -> None:
    info = TableInfo("wide", 1, np.dtype("<f4"), (width,), None)
    out = np.zeros((2, width), "f4")
    work = protocol.get(info, [1, 2], out=out)
    rows = np.arange(2 * width, dtype="<f4")
    assert work.join([rows.tobytes()]) is out and (out.reshape(-1) == rows).all()
    (reader,) = work.readers
    assert np.shares_memory(reader.into, out) and reader.into.nbytes == out.nbytes
    with pytest.raises(ValueError, match="out= of table 'wide'"):
        protocol.get(info, [1], out=out)


def test_forms_of_results() -> None:
    assert FORMS == ("numpy", "torch", "arrow")
    reply = np.arange(2, dtype="<f4").tobytes()
    assert protocol.get(ITEMS, [1], as_="arrow").join([reply]).to_pylist() == [[0.0, 1.0]]
    assert protocol.pool(ITEMS, [1], [0], as_="arrow").join([reply]).to_pylist() == [[0.0, 1.0]]


def test_columns_are_put() -> None:
    work = protocol.put(CITIES, [4], {"name": ["Bonn"], "price": [1.5]})
    assert bytes(work.calls[0][3]) == np.array([(1.5, b"Bonn")], CITIES.dtype).tobytes()
    with pytest.raises(ValueError, match="'Berlin', which does not fit dtype"):
        protocol.put(CITIES, [4], {"name": ["Berlin"], "price": [1.5]})


def test_ids_of_keys() -> None:
    work = protocol.ids_of("items", [["a"], [b"b\0"]], keep=False, at="v1")
    assert work.calls == [("TABLE.IDS", "items", 2, "a", b"b\0", "ONLY", "AT", "v1")]
    assert work.join([np.array([5, 6], "<i8").tobytes()]).tolist() == [[5], [6]]
    many = protocol.ids_of("items", ["a"] * (protocol.KEYS_PER_CALL + 1))
    assert [call[2] for call in many.calls] == [protocol.KEYS_PER_CALL, 1] and many.stream
    assert protocol.ids_of("items", []).calls == []
    with pytest.raises(ValueError, match="keys hold 1"):
        protocol.ids_of("items", ["a", 1])
