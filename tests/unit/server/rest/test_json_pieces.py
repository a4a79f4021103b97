"""Long JSON in pieces: the same as in one piece, whatever is in it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pmkv_server.rest import json_pieces
from pmkv_server.rest.json_pieces import dumps, loads

DAMAGE = [b",", b"[", b"]", b"}", b'"', b"x", b"", b":"]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.text() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@pytest.fixture(autouse=True, scope="module")
def small() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_pieces, "WHOLE_BYTES", 4)
        patch.setattr(json_pieces, "JSON_PIECE_BYTES", 3)
        yield


@settings(max_examples=40)
@given(st.dictionaries(st.text(), VALUES, max_size=4), st.sampled_from([None, 1]), st.booleans())
def test_what_is_valid_is_the_same(value: dict[str, Any], indent: int | None, escaped: bool) -> None:
    body = json.dumps(value, indent=indent, ensure_ascii=escaped).encode(errors="surrogatepass")
    try:
        expected = orjson.loads(body)
    except orjson.JSONDecodeError:  # half a surrogate pair
        with pytest.raises(orjson.JSONDecodeError):
            loads(body)
        return
    assert loads(body) == expected


@given(st.dictionaries(st.text('ab[]{},:"'), VALUES), st.data())
def test_what_is_not_valid_is_refused_by_both(value: dict[str, Any], data: st.DataObject) -> None:
    body = bytearray(json.dumps(value).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(body) - 1))
        body[at : at + data.draw(st.integers(0, 1))] = data.draw(st.sampled_from(DAMAGE))
        if not body:
            return
    try:
        expected = orjson.loads(bytes(body))
    except orjson.JSONDecodeError:
        with pytest.raises(orjson.JSONDecodeError):
            loads(bytes(body))
    else:
        assert loads(bytes(body)) == expected


@pytest.mark.parametrize(
    "body",
    [b'{"a":[1,,22,33]}', b'{"a":[1,22,33,]}', b'{"a":[,1,22,33]}', b'{"a":1,}', b'{,"a":1}', b'{"a":1 "b":2}',
     b'{"a":[1,22],[33]}', b'{"a":[11,22]33}', b'{"a":{},[11,22]}', b'{"a" [11,22,33]}', b'{"a":[1}',
     b'{"a":"', b"[[],"],
)  # fmt: skip
def test_gaps_are_not_overlooked(body: bytes) -> None:
    with pytest.raises(orjson.JSONDecodeError):
        loads(body)


def test_the_last_of_equal_names_counts() -> None:
    assert loads(b'{"a":[11,22],"b":3,"a":[44,55]}') == {"a": [44, 55], "b": 3}


@pytest.mark.parametrize(
    "value",
    [{}, {"rows": np.arange(12, dtype="f4").reshape(3, 4), "cursor": "7"}, {"a": [{"x": 1}] * 2500, "b": []}, [1, 2],
     {"n": {"rows": np.arange(9)}}, {"empty": np.empty((0, 3))}, {"flat": np.empty((3, 0))}, {"one": np.float32(1.5)}],
)  # fmt: skip
def test_dumps_is_the_same(value: Any) -> None:
    assert dumps(value, orjson.OPT_SERIALIZE_NUMPY) == orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
