"""Rows of a Feast feature view: what a row of its table holds, and Feast's values as columns of rows and back.

A row has the time of the event and of its creation (microseconds since 1970), a bit for each feature that has a value
(the first bit: there is a row), and a column for each feature. Numbers, booleans and timestamps stand in their column;
of strings, bytes, lists and whatever else the column holds the length, and the values, as Feast serializes them, stand
one after the other in `_inline`. If they are longer than that, all of them are a value in the keyspace, under the
number in `_token`. The dtype of a table says all this, so that a table can be read without its view.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from itertools import repeat
from operator import attrgetter
from typing import Any

import numpy as np
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.protos.feast.types.Value_pb2 import Value
from feast.value_type import ValueType

TIME, CREATED, PRESENT, INLINE, TOKEN = "_ts", "_created", "_present", "_inline", "_token"
RESERVED = {TIME, CREATED, PRESENT, INLINE, TOKEN}
ID_MASK = (1 << 63) - 1
LENGTH = np.dtype("<u4")  # of a value that stands elsewhere; no feature of Feast has this dtype itself
INLINE_LIMIT_BYTES = 32 << 10  # of one row; a row of pmkv has at most 64 KiB
MICROSECONDS = 1_000_000
MICROSECOND, EPOCH, NAIVE_EPOCH = timedelta(microseconds=1), datetime(1970, 1, 1, tzinfo=UTC), datetime(1970, 1, 1)
KEPT_ENTITIES = 1 << 14  # of which the keys are kept

COLUMNS = {
    ValueType.INT32: "<i4", ValueType.INT64: "<i8", ValueType.FLOAT: "<f4", ValueType.DOUBLE: "<f8",
    ValueType.BOOL: "|b1", ValueType.UNIX_TIMESTAMP: "<M8[s]",
}  # fmt: skip
ATTRIBUTES = {
    "<i4": "int32_val", "<i8": "int64_val", "<f4": "float_val", "<f8": "double_val", "|b1": "bool_val",
    "<M8[s]": "unix_timestamp_val",
}  # fmt: skip
NULL = Value()

Entry = tuple[Any, dict[str, Value], datetime, datetime | None]  # entity key, values, time of event, of creation


@dataclass(frozen=True)
class Encoded:
    """Rows to be written: ids, serialized entity keys, rows, and values that are too long for their row by token."""

    ids: np.ndarray
    keys: list[bytes]
    rows: np.ndarray
    long: dict[tuple[int, int], bytes]  # (id, token)


def view_dtype(features: Sequence[Any], inline_bytes: int) -> np.dtype:
    """Return the dtype of the rows of a view. inline_bytes: room in a row for each feature of no fixed size."""
    kinds = {field.name: COLUMNS.get(field.dtype.to_value_type(), LENGTH.str) for field in features}
    if taken := RESERVED & kinds.keys():
        raise ValueError(f"a feature is named {min(taken)!r}, which is a column of the store itself: rename it")
    descr: list[Any] = [(TIME, "<i8"), (CREATED, "<i8"), (PRESENT, "u1", ((len(kinds) + 8) // 8,)), *kinds.items()]
    if others := sum(kind == LENGTH.str for kind in kinds.values()):
        descr += [(TOKEN, "<u8"), (INLINE, "u1", (max(1, min(others * inline_bytes, INLINE_LIMIT_BYTES)),))]
    return np.dtype(descr)


def entity_id(key: bytes) -> int:
    """Return the id of a serialized entity key: 63 bits of BLAKE2b (digest size 8, little-endian)."""
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "little") & ID_MASK


class EntityKeys:
    """Serializes entity keys as Feast does (version 3), and keeps the latest ones, as entities come once for each
    view."""

    def __init__(self) -> None:
        self._kept: dict[bytes, tuple[bytes, int]] = {}  # key and id, by what protocol buffers make of the entity

    def of(self, protos: Sequence[Any]) -> tuple[list[bytes], np.ndarray]:
        """Return the keys and ids of entities."""
        raw = [proto.SerializeToString() for proto in protos]
        kept = self._kept
        for place, word in enumerate(raw):
            if word not in kept:
                key = serialize_entity_key(protos[place], entity_key_serialization_version=3)
                kept[word] = key, entity_id(key)
        found = [kept[word] for word in raw]
        if len(kept) > KEPT_ENTITIES:
            self._kept = {}
        return [key for key, _ in found], np.array([id for _, id in found], np.int64)


def microseconds(time: datetime | None) -> int:
    """Return a time as microseconds since 1970; a time without a zone is UTC, none is 0."""
    if time is None:
        return 0
    return int((time - (EPOCH if time.tzinfo is not None else NAIVE_EPOCH)) // MICROSECOND)


class ViewLayout:
    """The columns of the table of a view, by its dtype."""

    def __init__(self, dtype: np.dtype) -> None:
        self.dtype = dtype
        self.columns = [name for name in dtype.names or () if name not in RESERVED]
        self.bits = {name: at + 1 for at, name in enumerate(self.columns)}  # of PRESENT; bit 0: there is a row
        self.others = [name for name in self.columns if dtype[name] == LENGTH]
        self.kinds = {name: dtype[name].str for name in self.columns}
        self.offsets = {name: offset for name, (_, offset, *_) in (dtype.fields or {}).items()}
        self.inline = dtype[INLINE].shape[0] if self.others else 0

    # writing

    def encode(self, entries: Sequence[Entry], view: str, entities: EntityKeys) -> Encoded:
        """Return the rows of entries. ValueError: a value is not of the type that the view declares."""
        keys, ids = entities.of([entry[0] for entry in entries])
        rows = np.zeros(len(entries), self.dtype)
        rows[TIME] = [microseconds(entry[2]) for entry in entries]
        rows[CREATED] = [microseconds(entry[3]) for entry in entries]
        packed: list[list[bytes]] = [[] for _ in entries]
        present, given = self._none_present(len(entries)), [entry[1] for entry in entries]
        for name in self.columns:
            values = [features.get(name, NULL) for features in given]
            kinds = list(map(Value.WhichOneof, values, repeat("val")))
            there = [kind is not None and kind != "null_val" for kind in kinds]
            present[:, self.bits[name]] = there
            if self.dtype[name] == LENGTH:
                _pack(rows[name], packed, values, there)
            else:
                rows[name] = self._numbers(name, values, kinds, f"feature {name!r} of view {view!r}")
        rows[PRESENT] = np.packbits(present, axis=1, bitorder="little")
        return Encoded(ids, keys, rows, self._place(ids, rows, packed))

    def moved(
        self, before: ViewLayout, ids: np.ndarray, rows: np.ndarray, long: dict[int, bytes]
    ) -> tuple[np.ndarray, dict[tuple[int, int], bytes]]:
        """Return rows of another layout as rows of this one, with what both have of one type; and what is too long."""
        moved = np.zeros(len(rows), self.dtype)
        moved[TIME], moved[CREATED] = rows[TIME], rows[CREATED]
        packed: list[list[bytes]] = [[] for _ in rows]
        present = self._none_present(len(rows))
        for name in self.columns:
            if name not in before.bits or before.dtype[name] != self.dtype[name]:
                continue
            present[:, self.bits[name]] = there = before.there(rows, name)
            if self.dtype[name] == LENGTH:
                _pack(moved[name], packed, before.decode(rows, name, long), there.tolist())
            else:
                moved[name] = rows[name]
        moved[PRESENT] = np.packbits(present, axis=1, bitorder="little")
        return moved, self._place(ids, moved, packed)

    def _none_present(self, count: int) -> np.ndarray:
        """Return the bits of rows without any value: bool[n, bits]."""
        present = np.zeros((count, 8 * self.dtype[PRESENT].shape[0]), bool)
        present[:, 0] = True
        return present

    def _numbers(self, name: str, values: Sequence[Value], kinds: Sequence[str | None], label: str) -> np.ndarray:
        attribute = ATTRIBUTES[self.dtype[name].str]
        wrong = set(kinds) - {attribute, None, "null_val"}
        if wrong:
            raise ValueError(
                f"{label} has the type of {attribute}, and was given {min(wrong)}: change the view or the value"
            )
        numbers = list(map(attrgetter(attribute), values))
        return np.array(numbers, "<i8" if self.dtype[name].kind == "M" else self.dtype[name]).view(self.dtype[name])

    def _place(self, ids: np.ndarray, rows: np.ndarray, packed: list[list[bytes]]) -> dict[tuple[int, int], bytes]:
        """Put values of no fixed size into their rows; return those that are too long."""
        long: dict[tuple[int, int], bytes] = {}
        tokens = np.random.default_rng().integers(1, 1 << 63, len(rows), np.uint64) if self.others else None
        for row, parts in enumerate(packed):
            joined = b"".join(parts)
            if len(joined) > self.inline:
                assert tokens is not None
                rows[TOKEN][row] = tokens[row]
                long[int(ids[row]), int(tokens[row])] = joined
            elif joined:
                rows[INLINE][row, : len(joined)] = np.frombuffer(joined, np.uint8)
        return long

    # reading

    def found(self, rows: np.ndarray) -> np.ndarray:
        """Return bool[n]: for which there is a row."""
        return (rows[PRESENT][:, 0] & 1).astype(bool)

    def there(self, rows: np.ndarray, name: str) -> np.ndarray:
        """Return bool[n]: which rows have a value of this feature."""
        bit = self.bits[name]
        return ((rows[PRESENT][:, bit // 8] >> (bit % 8)) & 1).astype(bool)

    def tokens(self, rows: np.ndarray) -> np.ndarray:
        """Return the tokens of rows, uint64[n]; 0 where the values of a row stand in it."""
        return rows[TOKEN] if self.others else np.zeros(len(rows), np.uint64)

    def decode(self, rows: np.ndarray, feature: str, long: dict[int, bytes]) -> list[Value]:
        """Return the values of one feature; null where there is none. long: values too long for their row, by row."""
        return self.decode_all(rows, [feature], long)[0]

    def decode_all(self, rows: np.ndarray, features: Sequence[str], long: dict[int, bytes]) -> list[list[Value]]:
        """Return the values of several features. long: as of `decode`."""
        bits = np.unpackbits(rows[PRESENT], axis=1, bitorder="little").view(bool)
        return [
            self._decode(rows, name, bits[:, self.bits[name]], long) if name in self.bits else [NULL] * len(rows)
            for name in features
        ]

    def _decode(self, rows: np.ndarray, name: str, there: np.ndarray, long: dict[int, bytes]) -> list[Value]:
        kind = self.kinds[name]
        if kind == LENGTH.str:
            packed = zip(self.packed(rows, name, long), there.tolist())
            return [Value.FromString(value) if is_there else NULL for value, is_there in packed]
        column = rows[name]
        numbers = (column.view("<i8") if column.dtype.kind == "M" else column).tolist()
        if kind == "<f4" and there.all():  # most features are such, and nearly always there
            return [Value(float_val=number) for number in numbers]
        attribute = ATTRIBUTES[kind]
        return [Value(**{attribute: number}) if ok else NULL for number, ok in zip(numbers, there.tolist())]

    def packed(self, rows: np.ndarray, name: str, long: dict[int, bytes]) -> list[bytes]:
        """Return the values of a feature of no fixed size as Feast serializes them; nothing where there is none."""
        before = sum(rows[other].astype(np.int64) for other in self.others[: self.others.index(name)])
        starts, sizes = np.broadcast_to(before, (len(rows),)).tolist(), rows[name].tolist()
        inline, width = rows[INLINE].tobytes(), self.inline
        found = []
        for row, (start, size) in enumerate(zip(starts, sizes)):
            whole, first = (long[row], start) if row in long else (inline, row * width + start)
            found.append(whole[first : first + size])
        return found


def _pack(lengths: np.ndarray, packed: list[list[bytes]], values: Sequence[Value], there: Sequence[bool]) -> None:
    """Add the values of one feature to what is packed of each row, and set their lengths."""
    for row, (value, is_there) in enumerate(zip(values, there)):
        if is_there:
            packed[row].append(value.SerializeToString())
            lengths[row] = len(packed[row][-1])
