"""Rows as JSON: what goes out comes back, and what does not fit is refused, never rounded, cut or guessed."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pmkv_server.rest.jsonrows import dump, from_base64, jsonable, parse, to_integers, to_rows
from pmkv_server.rest.problems import Problem

NUMBERS = st.one_of(
    arrays.boolean_dtypes(),
    arrays.integer_dtypes(),
    arrays.unsigned_integer_dtypes(),
    arrays.floating_dtypes(sizes=(16, 32, 64)),
    arrays.complex_number_dtypes(sizes=(64, 128)),
)
TEXTS = st.sampled_from(["S5", "U5", "M8[ms]", "m8[s]"]).map(np.dtype)
SCALARS = st.one_of(NUMBERS, TEXTS)
STRUCTS = st.lists(st.one_of(st.tuples(SCALARS), st.tuples(SCALARS, st.just((2,)))), min_size=1, max_size=3).map(
    lambda kinds: np.dtype([(f"f{i}", *kind) for i, kind in enumerate(kinds)])
)
ROWS = st.tuples(st.one_of(SCALARS, STRUCTS), st.sampled_from([(), (1,), (3,), (2, 2)]), st.integers(0, 3)).flatmap(
    lambda row: arrays.arrays(row[0], (row[2], *row[1]))
)


def finite(array: np.ndarray) -> np.ndarray:
    """As JSON carries it: infinities become null, null becomes NaN; a NaN has one form."""
    array = array.copy()
    if array.dtype.names:
        for name in array.dtype.names:
            array[name] = finite(array[name])
    elif array.dtype.kind == "f":
        array[~np.isfinite(array)] = np.nan
    elif array.dtype.kind == "c":
        array.real, array.imag = finite(array.real), finite(array.imag)
    return array


def same(one: np.ndarray, other: np.ndarray) -> bool:
    if one.dtype.names:
        return all(same(one[name], other[name]) for name in one.dtype.names)
    if one.dtype.kind in "fcMm":
        return bool(np.array_equal(one, other, equal_nan=True))
    return one.tobytes() == other.tobytes()


@given(ROWS)
def test_round_trip(rows: np.ndarray) -> None:
    text = dump(jsonable(rows))
    back = to_rows(json.loads(text), rows.dtype, rows.shape[1:])
    assert back.dtype == rows.dtype.newbyteorder("=") or back.dtype == rows.dtype
    assert back.shape == rows.shape
    assert same(back, finite(rows)), (text, back, rows)


def test_text_that_is_no_unicode() -> None:
    half = np.array(["a\ud800", "b"], "U2")
    assert json.loads(text := dump(jsonable(half))) == [{"base64": "Ye2ggA=="}, "b"]
    assert same(to_rows(json.loads(text), half.dtype, ()), half)
    with pytest.raises(Problem, match="ask for application/x-npy"):
        jsonable(np.array([0x7FFFFFFF], "u4").view("U1"))
    with pytest.raises(Problem, match="are no array of <U2"):
        to_rows([{"base64": "/w=="}], half.dtype, ())


def test_what_it_looks_like() -> None:
    rows = np.array(
        [(0.1, [1, 2], b"caf\xc3\xa9", b"\xff"), (np.nan, [3, 4], b"", b"")],
        [("price", "f4"), ("sizes", "i8", 2), ("name", "S8"), ("raw", "S1")],
    )
    assert json.loads(dump(jsonable(rows))) == [
        {"price": 0.1, "sizes": [1, 2], "name": "café", "raw": {"base64": base64.b64encode(b"\xff").decode()}},
        {"price": None, "sizes": [3, 4], "name": "", "raw": ""},
    ]
    assert dump(jsonable(np.array([0.1, np.inf], "f4"))) == b"[0.1,null]"
    assert dump(jsonable(np.array(["2024-02-03", "NaT"], "M8[D]"))) == b'["2024-02-03",null]'
    assert dump(jsonable(np.array([1 + 2j], "c8"))) == b"[[1.0,2.0]]"
    assert dump(jsonable(np.array([[1, -2]], ">i2"))) == b"[[1,-2]]"


def test_integers_are_exact() -> None:
    edge = [2**63 - 1, -(2**63), 2**53 + 1]
    assert to_integers(parse(dump(edge)), "ids").tolist() == edge
    assert to_integers([], "ids").dtype == np.int64
    big = [0, 2**64 - 1, 2**53 + 1]
    assert to_rows(big, np.dtype("u8"), ()).tolist() == big


@pytest.mark.parametrize("ids", [None, 1, "1", {}, [1.0], [1.5], ["1"], [True], [None], [[1]], [2**63], [2**80]])
def test_what_is_no_list_of_integers(ids: object) -> None:
    with pytest.raises(Problem, match="ids") as problem:
        to_integers(ids, "ids")
    assert problem.value.status == 400


STRUCT = np.dtype([("a", "i4"), ("b", "S3")])
UNFIT = [
    ("f4", (), "text"),
    ("f4", (), ["1.5"]),
    ("f4", (), [True]),
    ("f4", (), [None, "1"]),
    ("f4", (), [1e300]),
    ("f4", (2,), [[1]]),
    ("f4", (2,), [[1, 2], [3]]),
    ("f4", (2,), [1, 2]),
    ("f4", (2,), [[], []]),
    ("f4", (), [[1]]),
    ("f4", (), [{}]),
    ("i4", (), [1.5]),
    ("i4", (), [True]),
    ("i4", (), [None]),
    ("i1", (), [128]),
    ("u8", (), [-1]),
    ("u8", (), [2**64]),
    ("u8", (), [1, 2**63 + 1, 1.5]),
    ("b1", (), [1]),
    ("c8", (), [1]),
    ("c8", (), [[1, 2, 3]]),
    ("S3", (), ["long"]),
    ("S3", (), [1]),
    ("S3", (), [{"base64": "?"}]),
    ("U3", (), ["long"]),
    ("U3", (1,), [["a", "b"]]),
    ("M8[s]", (), ["yesterday-ish"]),
    (STRUCT, (), [{"a": 1}]),
    (STRUCT, (), [{"a": 1, "b": "x", "c": 2}]),
    (STRUCT, (), [[1, "x"]]),
    (STRUCT, (), [{"a": 1.5, "b": "x"}]),
]


@pytest.mark.parametrize(("dtype", "shape", "value"), UNFIT, ids=lambda part: str(part)[:40])
def test_what_does_not_fit(dtype: object, shape: tuple[int, ...], value: object) -> None:
    with pytest.raises(Problem) as problem:
        to_rows(value, np.dtype(dtype), shape)  # type: ignore[call-overload]
    assert problem.value.status == 400


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists), SCALARS)
def test_anything_is_an_array_or_a_problem(value: object, dtype: np.dtype) -> None:
    try:
        rows = to_rows(value, dtype, (2,))
    except Problem:
        return
    assert rows.shape[1:] == (2,)


@pytest.mark.parametrize("body", [b"", b"{", b"nope", b"\xff", b"[NaN]", b"[" * 100_000])
def test_what_is_not_json(body: bytes) -> None:
    with pytest.raises(Problem, match="not JSON"):
        parse(body)


@given(st.binary(max_size=40))
def test_base64_in_all_its_forms(data: bytes) -> None:
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        text = encode(data).decode()
        assert from_base64(text) == from_base64(text.rstrip("=")) == data


@pytest.mark.parametrize("text", ["?", "a", "é", 1, None])
def test_what_is_not_base64(text: object) -> None:
    with pytest.raises(Problem, match="not base64"):
        from_base64(text)
