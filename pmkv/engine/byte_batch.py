"""Keys and values on their way in: checked, joined into arrays as kernels want them, cut into frames and batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..errors import InvalidError
from ..kernels.records import longest_span
from ..log.format import MAX_BATCH, MAX_KEY, MAX_VALUE


class BytesArray(Sequence[Any]):
    """Byte strings in one array: the i-th is blob[bounds[i, 0] : bounds[i, 1]], or None if its bounds are negative.

    What a server received is never cut into objects: a keyspace takes spans where it takes sequences of bytes."""

    def __init__(self, blob: np.ndarray, bounds: np.ndarray, absent: int = 0) -> None:
        """absent: how many are None."""
        self.blob, self.bounds, self.absent = blob, bounds, absent

    def __len__(self) -> int:
        return len(self.bounds)

    def __iter__(self) -> Iterator[bytes | None]:
        for start, stop in self.bounds.tolist():
            yield self.blob[start:stop].tobytes() if start >= 0 else None

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            bounds = self.bounds[index]
            return BytesArray(self.blob, bounds, int(np.count_nonzero(bounds[:, 0] < 0)))
        return next(iter(BytesArray(self.blob, self.bounds[index].reshape(1, 2))))


def longest(items: Sequence[bytes]) -> int:
    """The length of the longest."""
    return longest_span(items.bounds) if isinstance(items, BytesArray) else max(map(len, items))


def some_exceed(items: Sequence[bytes], length: int) -> bool:
    """Is one of them longer? Not if all together are not, as what a server takes at once hardly ever is."""
    return not (isinstance(items, BytesArray) and items.blob.size <= length) and longest(items) > length


def either(some: list[bytes], others: list[bytes], reverse: bool, count: int) -> list[bytes]:
    """Two ordered lists as one, as far as both reach: one with `count` keys may go on behind its last."""
    ends = [keys[-1] for keys in (some, others) if len(keys) >= count]
    merged = sorted({*some, *others}, reverse=reverse)
    if ends:
        end = max(ends) if reverse else min(ends)
        merged = [key for key in merged if (key >= end if reverse else key <= end)]
    return merged


def check_keys(keys: Sequence[bytes]) -> None:
    """Refuse what is no key."""
    if not isinstance(keys, BytesArray):
        for kind in set(map(type, keys)):
            if not issubclass(kind, bytes):
                raise InvalidError(f"a key must be bytes, not {kind.__name__}")
    if some_exceed(keys, MAX_KEY):
        raise InvalidError(f"a key of {longest(keys):,} bytes is too long: at most {MAX_KEY:,}")


def as_values(values: Sequence[bytes]) -> Sequence[bytes]:
    """Values as bytes; refuse what is none, or too long."""
    if not isinstance(values, BytesArray) and set(map(type, values)) != {bytes}:
        values = [value if isinstance(value, bytes) else bytes_of(value) for value in values]
    if some_exceed(values, MAX_VALUE):
        raise InvalidError(f"a value of {longest(values):,} bytes is too long: at most {MAX_VALUE:,}")
    return values


def bytes_of(value: Any) -> bytes:
    """What a bytearray, memoryview or array holds."""
    try:
        return memoryview(value).tobytes()
    except TypeError:
        raise InvalidError(f"a value must be bytes, not {type(value).__name__}") from None


def join(items: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Byte strings one behind the other, and where each begins and ends, int64[n, 2]."""
    if isinstance(items, BytesArray):
        return items.blob, items.bounds
    bounds = np.zeros((len(items), 2), np.int64)
    if len(items):
        np.fromiter(map(len, items), np.int64, len(items)).cumsum(out=bounds[:, 1])
        bounds[1:, 0] = bounds[:-1, 1]
    return np.frombuffer(b"".join(items) or b"\0", np.uint8), bounds


def cut_batches(sizes: np.ndarray, limit: int) -> Iterator[list[tuple[int, int, int]]]:
    """Consecutive items as frames (first, last + 1, bytes) of up to `limit` bytes, in batches of up to 16 MiB."""
    batch: list[tuple[int, int, int]] = []
    ends = np.cumsum(sizes)
    a, before, used = 0, 0, 0
    while a < len(sizes):
        b = max(a + 1, int(np.searchsorted(ends, before + limit, "right")))
        length = int(ends[b - 1]) - before
        if batch and used + length > MAX_BATCH:
            yield batch
            batch, used = [], 0
        batch.append((a, b, length))
        a, before, used = b, int(ends[b - 1]), used + length
    yield batch
