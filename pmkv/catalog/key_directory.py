"""The ordered directory of keys: how a key becomes an entry of at most 511 bytes, and entries become keys again.

An entry is a byte for the keyspace (so that the empty key has an entry too), then the key; of a key longer than 500
bytes, its first 500 and the 8 bytes of its hash. Entries sort as their keys do, except for long keys with a common
prefix of 500 bytes: such a *group* is resolved to full keys and sorted here. The directory holds a superset of the
living keys, and no values: callers look each key up.

`pull(first, stop, reverse, limit)` returns the next entries of [first, stop), all of them if limit is None.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby, islice

import numpy as np

from ..errors import InvalidError
from ..runtime.scheduling import GilYielder

PREFIX = 500  # bytes of a key that an entry holds
LONG_ENTRY_BYTES = 1 + PREFIX + 8  # of a key longer than PREFIX
KEYSPACES = 255
CHUNK = 512  # entries between two checks whether to yield the GIL: about 0.2 ms
PULLED_ENTRIES_MIN = 16  # per pull

Key = tuple[int, bytes, int]  # keyspace, key, its 64-bit hash
Pull = Callable[[bytes, bytes, bool, int | None], list[bytes]]
Resolve = Callable[[bytes, int], list[bytes]]

TAGS = [bytes([number]) for number in range(KEYSPACES + 1)]


class Batch:
    """Holds the entries of many keys in roughly ascending order, which makes LMDB twice as fast.

    It is made and freed without holding the GIL for long: sorting a million keys in one call would stop every other
    thread for a second."""

    def __init__(self, keys: Iterable[Key], gil: GilYielder) -> None:
        self._gil = gil
        self._chunks: list[list[bytes]] = []
        walk = iter(keys)
        while chunk := [entry(*key) for key in islice(walk, CHUNK)]:
            self._chunks.append(chunk)
            gil.give()
        self._order = self._sorted() if len(self._chunks) > 1 else np.empty(0, np.int64)

    def _sorted(self) -> np.ndarray:
        """Sort by the 16 bytes after the common prefix: close enough to order, and NumPy releases the GIL."""
        shared = self._shared_prefix()
        columns = np.empty((sum(len(chunk) for chunk in self._chunks), 2), np.uint64)
        for at, chunk in enumerate(self._chunks):
            slices = b"".join([one[shared : shared + 16].ljust(16, b"\0") for one in chunk])
            columns[at * CHUNK : at * CHUNK + len(chunk)] = np.frombuffer(slices, ">u8").reshape(-1, 2)
            self._gil.give()
        return np.lexsort((columns[:, 1], columns[:, 0]))

    def _shared_prefix(self) -> int:
        """Return how many bytes all entries have in common at the beginning."""
        low, high = min(self._chunks[0]), max(self._chunks[0])
        for chunk in self._chunks:
            low, high = min(low, *chunk), max(high, *chunk)
            self._gil.give()
        length = min(len(low), len(high))
        return next((at for at in range(length) if low[at] != high[at]), length)

    def __bool__(self) -> bool:
        return bool(self._chunks)

    def __iter__(self) -> Iterator[list[bytes]]:
        """Yield the entries in chunks. May be repeated."""
        if len(self._chunks) < 2:
            yield from (sorted(chunk) for chunk in self._chunks)
        for at in range(0, self._order.size, CHUNK):
            yield [self._chunks[one // CHUNK][one % CHUNK] for one in self._order[at : at + CHUNK].tolist()]
            self._gil.give()

    def free(self) -> None:
        """Free the entries in chunks; a million at once would hold the GIL for 50 ms."""
        self._order = self._order[:0]
        while self._chunks:
            self._chunks.pop()
            self._gil.give()


def entry(keyspace: int, key: bytes, key_hash: int) -> bytes:
    """Return the directory entry of a key."""
    if not 0 <= keyspace < KEYSPACES:
        raise InvalidError(f"keyspace {keyspace} has no place in the directory of keys: 0 to {KEYSPACES - 1} have")
    if len(key) <= PREFIX:
        return TAGS[keyspace] + key
    return TAGS[keyspace] + key[:PREFIX] + int(key_hash).to_bytes(8, "big")


def span(keyspace: int, low: bytes, high: bytes | None) -> tuple[bytes, bytes]:
    """Return the range [first, stop) of the entries whose keys may lie in [low, high)."""
    tag = TAGS[keyspace]
    if high is None:
        stop = TAGS[keyspace + 1]
    else:
        stop = tag + high if len(high) <= PREFIX else group_end(tag + high[:PREFIX])
    return tag + low[:PREFIX], stop


def group_of(one: bytes) -> bytes | None:
    """Return the common prefix of the entries of a group; None for an entry that holds its whole key."""
    return one[:-8] if len(one) == LONG_ENTRY_BYTES else None


def group_end(group: bytes) -> bytes:
    """Return a bound after all entries of a group."""
    return group + b"\xff" * 9


def next_keys(
    pull: Pull, keyspace: int, low: bytes, high: bytes | None, reverse: bool, count: int, resolve: Resolve
) -> list[bytes]:
    """Return the next keys of [low, high), at least `count` unless there are no more. A group is never cut."""
    first, stop = span(keyspace, low, high)
    keys: list[bytes] = []
    while len(keys) < count and first < stop:
        limit = max(count - len(keys), PULLED_ENTRIES_MIN)
        entries = pull(first, stop, reverse, limit)
        if not entries:
            break
        first, stop = _complete(pull, entries, first, stop, reverse)
        keys += (key for key in _resolved(entries, reverse, resolve) if low <= key and (high is None or key < high))
        if len(entries) < limit:
            break
    return keys


def _complete(pull: Pull, entries: list[bytes], first: bytes, stop: bytes, reverse: bool) -> tuple[bytes, bytes]:
    """Append the rest of the last entry's group to `entries`. Return what is left of [first, stop)."""
    last, group = entries[-1], group_of(entries[-1])
    if group is None:
        return (first, last) if reverse else (last + b"\0", stop)
    start, end = group + b"\0", group_end(group)
    entries += pull(start, last, True, None) if reverse else pull(last + b"\0", end, False, None)
    return (first, start) if reverse else (end, stop)


def _resolved(entries: list[bytes], reverse: bool, resolve: Resolve) -> Iterator[bytes]:
    """Yield the keys of some entries, those of a group in order."""
    for group, members in groupby(entries, group_of):
        if group is None:
            yield from (one[1:] for one in members)
        else:
            full = {key for one in members for key in resolve(group[1:], int.from_bytes(one[-8:], "big"))}
            yield from sorted(full, reverse=reverse)
