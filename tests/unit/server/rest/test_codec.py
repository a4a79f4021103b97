"""A request is the same message in every format, and a reply the same arrays."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pmkv_server.rest import npy
from pmkv_server.rest.arrow import write_arrow
from pmkv_server.rest.codec import Row, decode, decode_ids, encode
from pmkv_server.rest.formats import ARROW, JSON, NPY, NPZ
from pmkv_server.rest.problems import Problem

ROW = Row(np.dtype("<f4"), (2,))
LIMIT = 1 << 20
IDS = arrays.arrays(np.int64, st.integers(0, 5))


def bodies(named: dict[str, np.ndarray]) -> dict[str, bytes]:
    pytest.importorskip("pyarrow")
    listed = {name: array.tolist() for name, array in named.items()}
    return {JSON: json.dumps(listed).encode(), NPZ: npy.write_npz(named), ARROW: write_arrow(named)}


@given(IDS)
def test_ids_and_rows_in_every_format(ids: np.ndarray) -> None:
    rows = np.arange(2 * len(ids), dtype="f4").reshape(-1, 2)
    for form, body in bodies({"ids": ids, "rows": rows}).items():
        message = decode(body, form, ROW, LIMIT)
        assert message.require("ids").tolist() == ids.tolist(), form
        assert message.require("ids").dtype == np.int64
        assert np.array_equal(message.require("rows"), rows), form
    assert decode(npy.write_npy(ids), NPY, ROW, LIMIT).require("ids").tolist() == ids.tolist()


def test_bags_in_every_format() -> None:
    pa = pytest.importorskip("pyarrow")
    ids, offsets, weights = np.array([7, 8, 9]), np.array([0, 2]), np.array([1, 2, 0.5], "f4")
    named = {"ids": ids, "offsets": offsets, "weights": weights}
    batch = pa.record_batch(
        [pa.array([[7, 8], [9]]), pa.array([[1, 2], [0.5]], pa.list_(pa.float32()))], ["ids", "weights"]
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as out:
        out.write_batch(batch)
    listed = {name: array.tolist() for name, array in named.items()}
    forms = {JSON: json.dumps(listed).encode(), NPZ: npy.write_npz(named), ARROW: sink.getvalue().to_pybytes()}
    for form, body in forms.items():
        message = decode(body, form, ROW, LIMIT)
        assert {name: array.tolist() for name, array in message.arrays.items()} == listed, form


def test_options_come_with_json() -> None:
    message = decode(b'{"ids": [1], "default": null, "mode": "max", "weights": null}', JSON, ROW, LIMIT)
    assert message.options == {"default": None, "mode": "max"} and set(message.arrays) == {"ids"}
    assert decode(b"", JSON, ROW, LIMIT).arrays == {}


@pytest.mark.parametrize(
    ("form", "body"),
    [
        (JSON, b"[1]"),
        (JSON, b'{"ids": 1}'),
        (JSON, b'{"ids": [1], "rows": [[1]]}'),
        (JSON, b'{"weights": ["a"]}'),
        (NPY, npy.write_npy(np.zeros(3))),
        (NPY, npy.write_npy(np.zeros((1, 1), "i8"))),
        (NPY, npy.write_npy(np.zeros(3, "u8"))),
        (NPZ, npy.write_npz({"ids": np.array(["a"])})),
        (NPZ, npy.write_npz({"keys": np.arange(3)})),
        (NPZ, npy.write_npz({"offsets": np.zeros(3)})),
    ],
    ids=range(10),
)
def test_what_is_no_message(form: str, body: bytes) -> None:
    with pytest.raises(Problem) as problem:
        decode(body, form, ROW, LIMIT)
    assert problem.value.status == 400


def test_smaller_integers_are_ids_too() -> None:
    for kind in ("i1", "u4", ">i8"):
        ids = decode(npy.write_npy(np.arange(3).astype(kind)), NPY, ROW, LIMIT).require("ids")
        assert ids.dtype.str == "<i8" and ids.tolist() == [0, 1, 2]


def test_need_names_what_is_missing() -> None:
    with pytest.raises(Problem, match="'offsets'"):
        decode(b"{}", JSON, ROW, LIMIT).require("offsets")


def test_ids_of_several_tables() -> None:
    named = {"users": np.array([1]), "items": np.array([2**63 - 1, -1])}
    listed = {name: ids.tolist() for name, ids in named.items()}
    for form, body in {JSON: json.dumps({"tables": listed}).encode(), NPZ: npy.write_npz(named)}.items():
        assert {name: ids.tolist() for name, ids in decode_ids(body, form, LIMIT).items()} == listed
    for body in (b"{}", b"[]", b'{"tables": []}', b'{"tables": {}, "more": 1}', b'{"tables": {"a": 1}}'):
        with pytest.raises(Problem, match="tables"):
            decode_ids(body, JSON, LIMIT)
    with pytest.raises(Problem) as problem:
        decode_ids(b"", NPY, LIMIT)
    assert problem.value.status == 415


def test_replies() -> None:
    found = {"rows": np.array([[1.5, np.nan]], "f4"), "found": np.array([True])}
    assert json.loads(encode(JSON, found, {"cursor": "9"})) == {"cursor": "9", "rows": [[1.5, None]], "found": [True]}
    back = npy.read_npz(encode(NPZ, found), LIMIT)
    assert np.array_equal(back["rows"], found["rows"], equal_nan=True) and back["found"].tolist() == [True]
    assert npy.read_npy(encode(NPY, {"rows": found["rows"]})).shape == (1, 2)
    with pytest.raises(Problem, match="more than the one array") as problem:
        encode(NPY, found)
    assert problem.value.status == 406
