"""Rows of feature views: values of every type come back, long ones stand elsewhere, and layouts change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest

from tests.optional import needs

needs("feast")

from feast import Field  # noqa: E402
from feast.protos.feast.types.EntityKey_pb2 import EntityKey  # noqa: E402
from feast.protos.feast.types.Value_pb2 import FloatList, Null, Value  # noqa: E402
from feast.types import Array, Bool, Float32, Float64, Int32, Int64, String, UnixTimestamp  # noqa: E402

from pmkv_client import feature_rows  # noqa: E402
from pmkv_client.feature_rows import (  # noqa: E402
    INLINE,
    NULL,
    TIME,
    EntityKeys,
    ViewLayout,
    entity_id,
    microseconds,
    view_dtype,
)

NOW = datetime(2026, 1, 2, 3, 4, 5, 678_901, UTC)
SCHEMA = {
    "i": (Int32, Value(int32_val=-5)), "l": (Int64, Value(int64_val=2**60)), "f": (Float32, Value(float_val=0.5)),
    "d": (Float64, Value(double_val=0.1)), "b": (Bool, Value(bool_val=True)),
    "t": (UnixTimestamp, Value(unix_timestamp_val=-7)), "s": (String, Value(string_val="word")),
    "v": (Array(Float32), Value(float_list_val=FloatList(val=[1.0, 2.5]))),
}  # fmt: skip
FIELDS = [Field(name=name, dtype=dtype) for name, (dtype, _) in SCHEMA.items()]


def key(number: int) -> EntityKey:
    return EntityKey(join_keys=["driver"], entity_values=[Value(int64_val=number)])


def entry(number: int, **values: Value) -> Any:
    return key(number), values, NOW, None


def test_every_type_comes_back() -> None:
    layout = ViewLayout(view_dtype(FIELDS, 48))
    values = {name: value for name, (_, value) in SCHEMA.items()}
    encoded = layout.encode([entry(1, **values), entry(2), entry(3, i=Value(null_val=Null.NULL))], "view", EntityKeys())
    assert not encoded.long and layout.found(encoded.rows).all() and not layout.tokens(encoded.rows).any()
    assert not layout.found(np.zeros(2, layout.dtype)).any()
    for name, value in values.items():
        assert layout.decode(encoded.rows, name, {}) == [value, NULL, NULL]
    assert layout.decode(encoded.rows, "unknown", {}) == [NULL] * 3
    assert encoded.rows[TIME].tolist() == [microseconds(NOW)] * 3


def test_long_values_stand_elsewhere_all_together() -> None:
    layout = ViewLayout(view_dtype(FIELDS, 10))
    assert layout.dtype[INLINE].shape == (20,)
    long, short = Value(string_val="x" * 30), Value(string_val="y")
    vector = SCHEMA["v"][1]
    encoded = layout.encode([entry(1, s=long, v=vector), entry(2, s=short), entry(3, v=vector)], "view", EntityKeys())
    tokens = layout.tokens(encoded.rows)
    assert (tokens != 0).tolist() == [True, False, False]
    assert list(encoded.long) == [(int(encoded.ids[0]), int(tokens[0]))]
    elsewhere = {0: next(iter(encoded.long.values()))}
    assert layout.decode(encoded.rows, "s", elsewhere) == [long, short, NULL]
    assert layout.decode(encoded.rows, "v", elsewhere) == [vector, NULL, vector]


def test_rows_move_to_another_layout() -> None:
    before = ViewLayout(view_dtype(FIELDS, 10))
    encoded = before.encode(
        [entry(1, i=Value(int32_val=1), s=Value(string_val="z" * 40), f=Value(float_val=2.0))], "v", EntityKeys()
    )
    after = ViewLayout(view_dtype([Field(name="s", dtype=String), Field(name="i", dtype=Int64), *FIELDS[2:3]], 60))
    moved, long = after.moved(before, encoded.ids, encoded.rows, {0: next(iter(encoded.long.values()))})
    assert not long and after.decode(moved, "s", {}) == [Value(string_val="z" * 40)]
    assert after.decode(moved, "f", {}) == [Value(float_val=2.0)]
    assert after.decode(moved, "i", {}) == [NULL]  # another type now
    assert moved[TIME].tolist() == encoded.rows[TIME].tolist()


def test_ids_are_hashes_of_serialized_keys() -> None:
    keys, ids = EntityKeys().of([key(1), key(2)])
    assert (ids > 0).all() and len(set(ids.tolist())) == 2 and keys[0].endswith(b"\1" + bytes(7))
    assert ids.tolist() == [entity_id(one) for one in keys]
    assert entity_id(b"key") == 8452317258567154894


def test_entities_that_come_again_have_the_same_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    entities, fresh = EntityKeys(), EntityKeys()
    first = entities.of([key(1), key(2)])
    monkeypatch.setattr(feature_rows, "serialize_entity_key", None)
    again = entities.of([key(2), key(1)])
    assert again[0] == first[0][::-1] and again[1].tolist() == first[1].tolist()[::-1]
    monkeypatch.undo()
    monkeypatch.setattr(feature_rows, "KEPT_ENTITIES", 1)
    for _ in range(3):
        assert fresh.of([key(1), key(2)])[0] == first[0], "also when there are too many to be kept"


def test_times() -> None:
    assert microseconds(None) == 0 and microseconds(datetime(1970, 1, 1, 0, 0, 1)) == 1_000_000
    assert microseconds(datetime(1970, 1, 1, tzinfo=timezone(timedelta(hours=1)))) == -3_600_000_000
    assert microseconds(NOW) % 1_000_000 == 678_901


def test_what_is_refused() -> None:
    layout = ViewLayout(view_dtype(FIELDS, 10))
    with pytest.raises(ValueError, match="feature 'i' of view 'v' has the type of int32_val, and was given string_val"):
        layout.encode([entry(1, i=Value(string_val="5"))], "v", EntityKeys())
    with pytest.raises(ValueError, match="'_ts', which is a column of the store itself"):
        view_dtype([Field(name="_ts", dtype=Int64)], 10)
