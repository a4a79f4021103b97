"""Entries of one collection in the order of their slot hashes: rows of a table, or records of a keyspace.

An entry has a slot hash, by which it is sorted; a location, which tells whether it changed since an earlier backup and
whether it is a delete; and its row, or its key, value and expiry. In a piece, what is needed to compare comes first
(the *index*), rows and values follow (the *body*). A delete has no body.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..kernels.location import DELETE
from ..kernels.runs import key64s_of

HEADS = 22  # bytes of the index of a record beside its slot hash, its location and its key: see `KeyEntries`


class RowEntries:
    """Rows of a table. slots, locations: uint64[n]; rows: uint8[n, width], zeros for deletes; None if not read."""

    def __init__(self, slots: np.ndarray, locations: np.ndarray, rows: np.ndarray | None = None) -> None:
        self.slots, self.locations, self.rows = slots, locations, rows

    def __len__(self) -> int:
        return self.slots.size

    @classmethod
    def none(cls, width: int) -> RowEntries:
        """Return no entries."""
        nothing = np.empty(0, np.uint64)
        return cls(nothing, nothing, np.empty((0, width), np.uint8))

    @property
    def is_delete(self) -> np.ndarray:
        return self.locations & DELETE != 0

    def take(self, which: np.ndarray | slice) -> RowEntries:
        """Return some of the entries."""
        rows = self.rows[which] if self.rows is not None else None
        return RowEntries(self.slots[which], self.locations[which], rows)

    def deletes(self, width: int) -> RowEntries:
        """Return a delete for each of the entries. width: bytes of a row."""
        return RowEntries(self.slots, np.full(len(self), DELETE), np.zeros((len(self), width), np.uint8))

    def ids(self, seed: int) -> np.ndarray:
        """Return the ids of the rows, int64[n]. seed: of the table's slot hashes."""
        key64s_of(self.slots, np.uint64(seed), ids := np.empty(len(self), np.uint64))
        return ids.view(np.int64)

    @staticmethod
    def joined(parts: Sequence[RowEntries]) -> RowEntries:
        rows = [part.rows for part in parts if part.rows is not None]
        return RowEntries(
            np.concatenate([part.slots for part in parts]),
            np.concatenate([part.locations for part in parts]),
            np.concatenate(rows) if len(rows) == len(parts) else None,
        )

    def newest(self) -> RowEntries:
        """Return the first entry of each id; the entries are sorted, of one id the newest first."""
        return self.take(np.flatnonzero(np.diff(self.slots, prepend=~self.slots[:1])))

    def matches(self, earlier: RowEntries) -> np.ndarray:
        """Return for each entry where `earlier`, sorted, has its id; -1 where it does not."""
        if not len(earlier):
            return np.full(len(self), -1)
        at = np.minimum(np.searchsorted(earlier.slots, self.slots), len(earlier) - 1)
        return np.where(earlier.slots[at] == self.slots, at, -1)

    @property
    def nbytes(self) -> int:
        return len(self) * (16 + (self.rows.shape[1] if self.rows is not None else 0))

    def encoded(self) -> tuple[bytes, bytes]:
        """Return index and body: slot hashes, then locations; rows."""
        body = self.rows[~self.is_delete].tobytes() if self.rows is not None else b""
        return self.slots.tobytes() + self.locations.tobytes(), body

    @staticmethod
    def decoded(count: int, index: bytes, body: bytes | None, width: int) -> RowEntries:
        """Return the entries of a piece. body: None, if only the index was read. ValueError: lengths do not fit."""
        slots, locations = np.frombuffer(index, np.uint64).reshape(2, count)
        found = RowEntries(slots, locations)
        if body is not None:
            found.rows = np.zeros((count, width), np.uint8)
            alive = np.flatnonzero(~found.is_delete)
            found.rows[alive] = np.frombuffer(body, np.uint8).reshape(alive.size, width)
        return found


class KeyEntries:
    """Records of a keyspace. slots, locations: uint64[n]; keys; expiries: int64[n], unix ms or 0; kinds: uint8[n], the
    flags of the records; values: empty for deletes; None if not read."""

    def __init__(
        self,
        slots: np.ndarray,
        locations: np.ndarray,
        keys: list[bytes],
        expiries: np.ndarray,
        kinds: np.ndarray,
        values: list[bytes] | None = None,
    ) -> None:
        self.slots, self.locations, self.keys, self.values = slots, locations, keys, values
        self.expiries, self.kinds = expiries, kinds

    def __len__(self) -> int:
        return len(self.keys)

    @classmethod
    def none(cls) -> KeyEntries:
        """Return no entries."""
        nothing = np.empty(0, np.uint64)
        return cls(nothing, nothing, [], np.empty(0, np.int64), np.empty(0, np.uint8), [])

    @property
    def is_delete(self) -> np.ndarray:
        return self.locations & DELETE != 0

    def take(self, which: np.ndarray | slice) -> KeyEntries:
        """Return some of the entries."""
        places = range(*which.indices(len(self))) if isinstance(which, slice) else which.tolist()
        keys = [self.keys[i] for i in places]
        values = [self.values[i] for i in places] if self.values is not None else None
        return KeyEntries(
            self.slots[which], self.locations[which], keys, self.expiries[which], self.kinds[which], values
        )

    def deletes(self, width: int = 0) -> KeyEntries:
        """Return a delete for each of the entries."""
        count = len(self)
        return KeyEntries(
            self.slots, np.full(count, DELETE), self.keys, np.zeros(count, np.int64), np.zeros(count, np.uint8),
            [b""] * count,
        )  # fmt: skip

    @staticmethod
    def joined(parts: Sequence[KeyEntries]) -> KeyEntries:
        columns = [[getattr(part, name) for part in parts] for name in ("slots", "locations", "expiries", "kinds")]
        slots, locations, expiries, kinds = map(np.concatenate, columns)
        keys = [key for part in parts for key in part.keys]
        read = all(part.values is not None for part in parts)
        values = [value for part in parts for value in part.values or ()] if read else None
        return KeyEntries(slots, locations, keys, expiries, kinds, values)

    def newest(self) -> KeyEntries:
        """Return the first entry of each key; the entries are sorted, of one key the newest first."""
        first = np.diff(self.slots, prepend=~self.slots[:1]) != 0
        if first.all():
            return self
        seen: set[tuple[int, bytes]] = set()
        kept = []
        for i, one in enumerate(zip(self.slots.tolist(), self.keys)):  # keys with equal hashes are told apart
            if one not in seen:
                kept.append(i)
                seen.add(one)
        return self.take(np.array(kept))

    def matches(self, earlier: KeyEntries) -> np.ndarray:
        """Return for each entry where `earlier` has its key; -1 where it does not."""
        places = {key: i for i, key in enumerate(earlier.keys)}
        return np.fromiter((places.get(key, -1) for key in self.keys), np.int64, len(self))

    @property
    def nbytes(self) -> int:
        return len(self) * (16 + HEADS) + sum(map(len, self.keys)) + sum(map(len, self.values or ()))

    def encoded(self) -> tuple[bytes, bytes]:
        """Return index and body: slot hashes, locations, expiries (8 bytes each), lengths of keys and of values (4
        bytes each), flags (a byte each), the keys; the values."""
        values = self.values or [b""] * len(self)
        lengths = [np.fromiter(map(len, some), np.uint32, len(self)).tobytes() for some in (self.keys, values)]
        columns = [self.slots, self.locations, self.expiries, *lengths, self.kinds]
        return b"".join([column if isinstance(column, bytes) else column.tobytes() for column in columns]
                        + self.keys), b"".join(values)  # fmt: skip

    @staticmethod
    def decoded(count: int, index: bytes, body: bytes | None, width: int = 0) -> KeyEntries:
        """Return the entries of a piece. body: None, if only the index was read. ValueError: lengths do not fit."""
        kinds_at = 32 * count
        slots, locations = (np.frombuffer(index, np.uint64, count, 8 * count * i) for i in range(2))
        expiries = np.frombuffer(index, np.int64, count, 16 * count)
        key_lengths, value_lengths = (np.frombuffer(index, np.uint32, count, (24 + 4 * i) * count) for i in range(2))
        keys = cut(index[kinds_at + count :], key_lengths)
        values = cut(body, value_lengths) if body is not None else None
        return KeyEntries(slots, locations, keys, expiries, np.frombuffer(index, np.uint8, count, kinds_at), values)


Entries = RowEntries | KeyEntries


def cut(blob: bytes, lengths: np.ndarray) -> list[bytes]:
    """Cut a blob into consecutive byte strings. ValueError: it is not as long as they are."""
    ends = np.cumsum(lengths, dtype=np.int64)
    if len(blob) != (int(ends[-1]) if ends.size else 0):
        raise ValueError(f"{len(blob):,} bytes are not what the lengths say")
    starts = ends - lengths
    return [blob[start:end] for start, end in zip(starts.tolist(), ends.tolist())]
