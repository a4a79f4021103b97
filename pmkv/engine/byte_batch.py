"""Batches of byte strings: check keys and values, join them for kernels, and cut them into frames and batches."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np

from ..errors import InvalidError
from ..kernels.records import longest_span
from ..log.format import MAX_BATCH, MAX_KEY, MAX_VALUE, frame_size
from ..log.large_values import chunk_size
from ..log.log import Log
from ..runtime.arguments import encode_advice

RECORD_BYTES = 23  # of a record besides its key and value, at most: its head, and what fills it up to a multiple of 8
STEP_ITEMS = 1 << 16  # that C looks through at once, for a millisecond or two: it keeps the interpreter meanwhile
PIECE_BYTES = 2 * frame_size(0) + 8  # of a part besides its body, at most, and its place in the list of parts


class BytesArray(Sequence[Any]):
    """Byte strings in one array: the i-th is blob[bounds[i, 0] : bounds[i, 1]], or None if its bounds are negative.

    A keyspace takes one wherever it takes a sequence of bytes: a server need not cut a received buffer into objects."""

    def __init__(self, blob: np.ndarray, bounds: np.ndarray, absent: int = 0) -> None:
        """absent: the number of items that are None."""
        self.blob, self.bounds, self.absent = blob, bounds, absent

    def __len__(self) -> int:
        return len(self.bounds)

    def __iter__(self) -> Iterator[bytes | None]:
        starts, stops = self.bounds[:, 0].tolist(), self.bounds[:, 1].tolist()  # no list a row, for Python's collector
        for start, stop in zip(starts, stops):
            yield self.blob[start:stop].tobytes() if start >= 0 else None

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            bounds = self.bounds[index]
            return BytesArray(self.blob, bounds, int(np.count_nonzero(bounds[:, 0] < 0)))
        return next(iter(BytesArray(self.blob, self.bounds[index].reshape(1, 2))))


def longest_above(items: Sequence[bytes], length: int) -> int:
    """Return the length of the longest item if it is above `length`, else any number up to `length`.

    A BytesArray whose blob is not longer than `length` is not looked through: most that a server receives are not."""
    if isinstance(items, BytesArray):
        return items.blob.size if items.blob.size <= length else longest_span(items.bounds)
    if len(items) <= STEP_ITEMS:
        return max(map(len, items), default=0)
    return max(max(map(len, some)) for some in in_steps(items))


def in_steps(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Yield consecutive slices of a sequence: other threads run between two, but not while C looks through one."""
    return (items[first : first + STEP_ITEMS] for first in range(0, len(items), STEP_ITEMS))


def types_of(items: Sequence[Any]) -> set[type]:
    """Return the types of the items."""
    if len(items) <= STEP_ITEMS:
        return set(map(type, items))
    return set().union(*(set(map(type, some)) for some in in_steps(items)))


def merge_sorted(some: list[bytes], others: list[bytes], reverse: bool, count: int) -> list[bytes]:
    """Merge two sorted pages of keys, up to the last key that both are known to cover.

    A page of `count` keys or more was cut there: more keys may follow its last one."""
    ends = [keys[-1] for keys in (some, others) if len(keys) >= count]
    merged = sorted({*some, *others}, reverse=reverse)
    if ends:
        end = max(ends) if reverse else min(ends)
        merged = [key for key in merged if (key >= end if reverse else key <= end)]
    return merged


def check_keys(keys: Sequence[bytes]) -> None:
    """Raise InvalidError if a key is no bytes, or too long."""
    if not isinstance(keys, BytesArray):
        refuse_other_types(keys)
    if (longest := longest_above(keys, MAX_KEY)) > MAX_KEY:
        raise InvalidError(f"a key of {longest:,} bytes is too long: at most {MAX_KEY:,}")


def refuse_other_types(keys: Any) -> None:
    """Raise InvalidError if this is no sequence of keys, or one of them is no bytes."""
    if not isinstance(keys, Collection) or (isinstance(keys, np.ndarray) and not keys.ndim):
        raise InvalidError(f"keys must be a list of bytes, not {type(keys).__name__}")
    for kind in types_of(keys if isinstance(keys, Sequence) else list(keys)):
        if not issubclass(kind, bytes):
            raise InvalidError(f"a key must be bytes, not {kind.__name__}{encode_advice(kind)}")


def as_values(values: Sequence[bytes], limit: int = MAX_VALUE) -> tuple[Sequence[bytes], bool]:
    """Return values as bytes, and whether one is longer than `limit`. InvalidError: one is no bytes, or too long.

    Plain views of more than `limit` bytes stay views: a copy of half a gigabyte would hold up every other thread."""
    if not isinstance(values, BytesArray) and types_of(values) != {bytes}:
        values = [
            value if isinstance(value, bytes) or is_long_view(value, limit) else bytes_of(value) for value in values
        ]
    if (longest := longest_above(values, limit)) > MAX_VALUE:
        raise InvalidError(f"a value of {longest:,} bytes is too long: at most {MAX_VALUE:,}")
    return values, longest > limit


def is_long_view(value: Any, length: int) -> bool:
    """Return whether a value is a view of more than `length` bytes, one after the other."""
    return isinstance(value, memoryview) and value.c_contiguous and value.itemsize == 1 and len(value) > length


def bytes_of(value: Any) -> bytes:
    """Copy the bytes of a bytearray, memoryview or array. InvalidError: the value is none of these."""
    try:
        return memoryview(value).tobytes()
    except TypeError:
        raise InvalidError(f"a value must be bytes, not {type(value).__name__}{encode_advice(type(value))}") from None


def join(items: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Concatenate byte strings; return the blob, uint8[:], and where each begins and ends, int64[n, 2].

    InvalidError: these are no byte strings."""
    if isinstance(items, BytesArray):
        return items.blob, items.bounds
    try:
        bounds = np.zeros((len(items), 2), np.int64)
        if not len(items):
            return np.zeros(1, np.uint8), bounds
        steps = (items,) if len(items) <= STEP_ITEMS else tuple(in_steps(items))
        ends, blobs = bounds[:, 1], [b"".join(some) for some in steps]
        for i, some in enumerate(steps):
            ends[i * STEP_ITEMS :][: len(some)] = np.fromiter(map(len, some), np.int64, len(some))
    except TypeError:
        refuse_other_types(items)
        raise
    ends.cumsum(out=ends)
    bounds[1:, 0] = ends[:-1]
    blob = b"".join(blobs) if len(blobs) > 1 else blobs[0]
    if len(blob) != ends[-1]:  # views of wider items: their length is no number of bytes
        refuse_other_types(items)
    return np.frombuffer(blob or b"\0", np.uint8), bounds


def cut_batches(sizes: np.ndarray, limit: int, first_limit: int) -> Iterator[list[tuple[int, int, int]]]:
    """Cut consecutive items into frames (first, last + 1, bytes) of up to `limit` bytes, the first one of up to
    `first_limit`, and frames into batches of up to 16 MiB."""
    batch: list[tuple[int, int, int]] = []
    ends = np.cumsum(sizes)
    first, before, used = 0, 0, 0
    while first < len(sizes):
        stop = max(first + 1, int(np.searchsorted(ends, before + (limit if first else first_limit), "right")))
        length = int(ends[stop - 1]) - before
        if batch and used + length > MAX_BATCH:
            yield batch
            batch, used = [], 0
        batch.append((first, stop, length))
        first, before, used = stop, int(ends[stop - 1]), used + length
    yield batch


def log_bytes(log: Log, count: int, length: int) -> int:
    """Return the most bytes of the log that one write of `count` records or rows takes, whose keys and values, or ids
    and rows, are `length` bytes."""
    body, part = length + RECORD_BYTES * count, chunk_size(log)
    pieces = 1 + 2 * body // log.frame_limit if count > 1 else body // part  # further frames, or parts of a value
    return frame_size(body) + pieces * PIECE_BYTES
