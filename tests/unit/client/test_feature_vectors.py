"""Vectors of a response that are written as bytes are those that Feast would make of objects."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

pytest.importorskip("feast", reason="Feast is not installed: `make ml` installs it")

from feast import Field
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus, GetOnlineFeaturesResponse
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Int64List, Value
from feast.types import Array, Bool, Float32, Float64, Int32, Int64, String, UnixTimestamp
from google.protobuf.timestamp_pb2 import Timestamp

from pmkv_client.feature_rows import MICROSECONDS, NULL, EntityKeys, ViewLayout, microseconds, view_dtype
from pmkv_client.feature_vectors import NOT_FOUND, absent, shown, varint, vectors

NOW = datetime(2026, 5, 4, 3, 2, 1, 234_567, UTC)
TYPES = {
    "f": Float32, "d": Float64, "i": Int32, "l": Int64, "b": Bool, "t": UnixTimestamp, "s": String, "v": Array(Int64),
}  # fmt: skip
ROWS: list[dict[str, Value]] = [
    {
        "f": Value(float_val=0.0), "d": Value(double_val=-1.5), "i": Value(int32_val=-7), "l": Value(int64_val=1 << 60),
        "b": Value(bool_val=True), "t": Value(unix_timestamp_val=1_700_000_000), "s": Value(string_val="x" * 300),
        "v": Value(int64_list_val=Int64List(val=[1, 2, 3])),
    },
    {"f": Value(float_val=2.5), "b": Value(bool_val=False), "i": Value(int32_val=300), "s": Value(string_val="")},
    {},
    {"f": Value(float_val=4.0), "l": Value(int64_val=-1), "t": Value(unix_timestamp_val=0)},
]  # fmt: skip
TIMES = [NOW, NOW.replace(microsecond=0), datetime(1969, 12, 31, tzinfo=UTC), NOW - timedelta(days=30)]
FEATURES = [*TYPES, "unknown"]


def encoded() -> tuple[ViewLayout, np.ndarray, dict[int, bytes]]:
    layout = ViewLayout(view_dtype([Field(name=name, dtype=kind) for name, kind in TYPES.items()], 16))
    entities = [EntityKey(join_keys=["e"], entity_values=[Value(int64_val=n)]) for n in range(len(ROWS))]
    found = layout.encode([(entities[n], ROWS[n], TIMES[n], None) for n in range(len(ROWS))], "view", EntityKeys())
    rows = np.append(found.rows, np.zeros(1, layout.dtype))  # the last one is not there
    places = {int(id): row for row, id in enumerate(found.ids)}
    return layout, rows, {places[id]: value for (id, _), value in found.long.items()}


def as_objects(order: list[int], oldest: int | None, with_expired: bool) -> list[Any]:
    """Return the vectors made of objects."""
    given, times = [*ROWS, {}], [*map(microseconds, TIMES), 0]
    statuses = [
        FieldStatus.OUTSIDE_MAX_AGE if oldest is not None and at < oldest else FieldStatus.PRESENT for at in times
    ]
    statuses[-1] = FieldStatus.NOT_FOUND
    hidden = {FieldStatus.NOT_FOUND} if with_expired else {FieldStatus.NOT_FOUND, FieldStatus.OUTSIDE_MAX_AGE}
    return [
        GetOnlineFeaturesResponse.FeatureVector(
            values=[NULL if statuses[row] in hidden else given[row].get(name, NULL) for row in order],
            statuses=[statuses[row] for row in order],
            event_timestamps=[
                Timestamp(seconds=times[row] // MICROSECONDS, nanos=times[row] % MICROSECONDS * 1000) for row in order
            ],
        )
        for name in FEATURES
    ]


def parsed(raw: bytes) -> list[Any]:
    response = GetOnlineFeaturesResponse()
    response.MergeFromString(raw)
    return list(response.results)


@pytest.mark.parametrize("with_expired", [False, True])
@pytest.mark.parametrize("oldest", [None, microseconds(NOW) - 86_400 * MICROSECONDS])
@pytest.mark.parametrize("order", [None, [4, 0, 0, 3, 2, 1]])
def test_vectors_are_equal_to_those_made_of_objects(
    order: list[int] | None, oldest: int | None, with_expired: bool
) -> None:
    layout, rows, long = encoded()
    raw = vectors(layout, rows, FEATURES, long, shown(rows, oldest, with_expired), order)
    assert parsed(raw) == as_objects(order or [0, 1, 2, 3, 4], oldest, with_expired)


@pytest.mark.parametrize("row", range(5))
def test_one_row_is_written_as_among_others(row: int) -> None:
    layout, rows, long = encoded()
    one = rows[row : row + 1]
    found = vectors(layout, one, FEATURES, {0: long[row]} if row in long else {}, shown(one, None, False), None)
    assert parsed(found) == as_objects([row], None, False)


def test_entities_without_a_table_have_no_values() -> None:
    (vector,) = parsed(vectors(None, np.empty(0), ["f"], {}, absent(2), None))
    assert list(vector.values) == [NULL, NULL] and list(vector.statuses) == [NOT_FOUND] * 2
    assert list(vector.event_timestamps) == [Timestamp()] * 2
    (vector,) = parsed(vectors(None, np.empty(0), ["f"], {}, absent(0), None))
    assert not vector.values and not vector.statuses


def test_numbers_on_the_wire() -> None:
    assert [varint(number) for number in (0, 127, 128, 300)] == [b"\0", b"\x7f", b"\x80\1", b"\xac\2"]
    assert varint((1 << 64) - 1) == b"\xff" * 9 + b"\1"
