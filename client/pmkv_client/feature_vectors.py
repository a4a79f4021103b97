"""Rows of a Feast feature view as the vectors of a response, in the wire format of protocol buffers.

A response has a message for each feature, with a message for each value. Made as objects of Python they take longer
than the request to the server, so their bytes are written here, and read into the response in one call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus, GetOnlineFeaturesResponse
from feast.protos.feast.types.Value_pb2 import Value

from .feature_rows import LENGTH, MICROSECONDS, PRESENT, TIME, ViewLayout

NOT_FOUND, FOUND, EXPIRED = (FieldStatus.Value(name) for name in ("NOT_FOUND", "PRESENT", "OUTSIDE_MAX_AGE"))
VARINT, EIGHT_BYTES, MESSAGE, FOUR_BYTES = 0, 1, 2, 5  # types of fields on the wire
WORD = (1 << 64) - 1


def varint(number: int) -> bytes:
    """Return a number from 0 on as the wire format has it: seven bits a byte, the low ones first."""
    if number < 0x80:
        return b"%c" % number
    parts = bytearray()
    while number >= 0x80:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number)
    return bytes(parts)


def tag(message: type, field: str, kind: int) -> bytes:
    """Return what stands before a field of a message."""
    return varint(message.DESCRIPTOR.fields_by_name[field].number << 3 | kind)  # type: ignore[attr-defined]


RESULT = tag(GetOnlineFeaturesResponse, "results", MESSAGE)
VALUE, STATUSES, EVENT_TIME = (
    tag(GetOnlineFeaturesResponse.FeatureVector, field, MESSAGE) for field in ("values", "statuses", "event_timestamps")
)
SECONDS, NANOS = b"\x08", b"\x10"  # fields 1 and 2 of a Timestamp, both of type VARINT
NULL_VALUE = VALUE + b"\0"
TRUE, FALSE = (VALUE + b"\2" + tag(Value, "bool_val", VARINT) + last for last in (b"\1", b"\0"))
BEFORE_FLOAT = VALUE + b"\5" + tag(Value, "float_val", FOUR_BYTES)
BEFORE_DOUBLE = VALUE + b"\x09" + tag(Value, "double_val", EIGHT_BYTES)
INTEGERS = {
    "<i4": tag(Value, "int32_val", VARINT), "<i8": tag(Value, "int64_val", VARINT),
    "<M8[s]": tag(Value, "unix_timestamp_val", VARINT),
}  # fmt: skip


@dataclass(frozen=True)
class Shown:
    """A description of rows in a response: whether their values are shown, and their statuses and times on the wire."""

    values: list[bool]
    statuses: list[int]
    times: list[bytes]


def absent(count: int) -> Shown:
    """Return what is told of so many entities that have no rows."""
    return Shown([False] * count, [NOT_FOUND] * count, [EVENT_TIME + b"\0"] * count)


def shown(rows: np.ndarray, oldest: int | None, with_expired: bool) -> Shown:
    """Return what is told of rows. oldest: events before this time are expired; with_expired: their values are shown
    all the same."""
    values, statuses, times = [], [], []
    for at, bits in zip(rows[TIME].tolist(), rows[PRESENT][:, 0].tolist()):
        status = NOT_FOUND if not bits & 1 else EXPIRED if oldest is not None and at < oldest else FOUND
        values.append(status == FOUND or (with_expired and status == EXPIRED))
        statuses.append(status)
        seconds, rest = divmod(at, MICROSECONDS)
        body = SECONDS + varint(seconds & WORD) + (NANOS + varint(rest * 1000) if rest else b"")
        times.append(EVENT_TIME + b"%c" % len(body) + body)
    return Shown(values, statuses, times)


def vectors(
    layout: ViewLayout | None,
    rows: np.ndarray,
    features: Sequence[str],
    long: dict[int, bytes],
    told: Shown,
    order: Sequence[int] | None,
) -> bytes:
    """Return the bytes of one vector for each feature. layout: None if there are no rows; long: values too long for
    their row, by row; order: the row of each place in the response, None: the same."""
    count, places = len(told.values), range(len(told.values)) if order is None else order
    statuses = bytes([told.statuses[row] for row in places])
    tail = STATUSES + varint(len(statuses)) + statuses + b"".join([told.times[row] for row in places])
    if layout is None:
        columns = [[NULL_VALUE] * count] * len(features)
    elif count == 1 and order is None:
        return _vectors_of_one(layout, rows, features, long, told.values[0], tail)
    else:
        columns = values(layout, rows, features, long, told.values)
    parts = []
    for column in columns:
        body = b"".join(column if order is None else [column[row] for row in order])
        parts += (RESULT, varint(len(body) + len(tail)), body, tail)
    return b"".join(parts)


def _vectors_of_one(
    layout: ViewLayout, rows: np.ndarray, features: Sequence[str], long: dict[int, bytes], is_shown: bool, tail: bytes
) -> bytes:
    """Return the vectors of one row, as most requests have only one."""
    raw = rows.tobytes()
    start = layout.offsets[PRESENT]
    mask = int.from_bytes(raw[start : start + rows.dtype[PRESENT].itemsize], "little") if is_shown else 0
    before_float = RESULT + varint(len(BEFORE_FLOAT) + 4 + len(tail)) + BEFORE_FLOAT
    null = RESULT + varint(len(NULL_VALUE) + len(tail)) + NULL_VALUE + tail
    parts = []
    for name in features:
        bit = layout.bits.get(name)
        if bit is None or not mask >> bit & 1:
            parts.append(null)
        elif layout.kinds[name] == "<f4":
            at = layout.offsets[name]
            parts += (before_float, raw[at : at + 4], tail)
        else:
            (body,) = _column(layout, rows, raw, name, long)
            parts += (RESULT, varint(len(body) + len(tail)), body, tail)
    return b"".join(parts)


def values(
    layout: ViewLayout, rows: np.ndarray, features: Sequence[str], long: dict[int, bytes], are_shown: Sequence[bool]
) -> list[list[bytes]]:
    """Return the values of each feature on the wire. long: values too long for their row, by row."""
    raw, width = rows.tobytes(), rows.dtype.itemsize
    start, size = layout.offsets[PRESENT], rows.dtype[PRESENT].itemsize
    masks = [
        int.from_bytes(raw[at : at + size], "little") if is_shown else 0
        for at, is_shown in zip(range(start, len(raw), width), are_shown)
    ]
    everywhere = -1  # the features that all rows have
    for mask in masks:
        everywhere &= mask
    found = []
    for name in features:
        bit = layout.bits.get(name)
        if bit is None:
            found.append([NULL_VALUE] * len(rows))
            continue
        column = _column(layout, rows, raw, name, long)
        if not everywhere >> bit & 1:
            column = [value if mask >> bit & 1 else NULL_VALUE for value, mask in zip(column, masks)]
        found.append(column)
    return found


def _column(layout: ViewLayout, rows: np.ndarray, raw: bytes, name: str, long: dict[int, bytes]) -> list[bytes]:
    """Return the values of one feature on the wire, also where there is none. raw: the bytes of the rows."""
    kind, places = layout.kinds[name], range(layout.offsets[name], len(raw), layout.dtype.itemsize)
    if kind == "<f4":
        return [BEFORE_FLOAT + raw[at : at + 4] for at in places]
    if kind == "<f8":
        return [BEFORE_DOUBLE + raw[at : at + 8] for at in places]
    if kind == "|b1":
        return [TRUE if raw[at] else FALSE for at in places]
    if kind == LENGTH.str:
        return [VALUE + varint(len(packed)) + packed for packed in layout.packed(rows, name, long)]
    numbers = rows[name].view("<i8") if kind == "<M8[s]" else rows[name]
    bodies = [INTEGERS[kind] + varint(number & WORD) for number in numbers.tolist()]
    return [VALUE + b"%c" % len(body) + body for body in bodies]
