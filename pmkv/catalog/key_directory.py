"""The ordered directory of keys: how a key becomes an entry of at most 511 bytes, and entries become keys again.

An entry is a byte for the keyspace (so that the empty key has one too), then the key; of a key longer than 500 bytes,
its first 500 and the 8 bytes of its hash. Entries sort as their keys do, but for long keys with the same beginning:
such a *group* is resolved to full keys and sorted here. Membership only, a superset: who asks looks each key up.

Assumes: `pull(first, stop, reverse, limit)` gives the next entries of [first, stop), all of them if limit is None.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby, islice

import numpy as np

from ..errors import InvalidError
from ..runtime.scheduling import GilYielder

PREFIX = 500
LONG = 1 + PREFIX + 8
KEYSPACES = 255
CHUNK = 512  # entries between two looks at the clock: about 0.2 ms
PULL = 16

Key = tuple[int, bytes, int]  # keyspace, key, its 64-bit hash
Pull = Callable[[bytes, bytes, bool, int | None], list[bytes]]
Resolve = Callable[[bytes, int], list[bytes]]

TAGS = [bytes([number]) for number in range(KEYSPACES + 1)]


class Batch:
    """Entries in about ascending order (LMDB is twice as fast then), made and forgotten without long holds of the
    interpreter: sorting a million keys in one call would stop every other thread for a second."""

    def __init__(self, keys: Iterable[Key], turns: GilYielder) -> None:
        self._turns = turns
        self._chunks: list[list[bytes]] = []
        walk = iter(keys)
        while chunk := [entry(*key) for key in islice(walk, CHUNK)]:
            self._chunks.append(chunk)
            turns.give()
        self._order = self._sorted() if len(self._chunks) > 1 else np.empty(0, np.int64)

    def _sorted(self) -> np.ndarray:
        """By the 16 bytes behind what all begin with: good enough, and NumPy sorts without the interpreter."""
        shared = self._shared()
        words = np.empty((sum(len(chunk) for chunk in self._chunks), 2), np.uint64)
        for at, chunk in enumerate(self._chunks):
            column = b"".join([one[shared : shared + 16].ljust(16, b"\0") for one in chunk])
            words[at * CHUNK : at * CHUNK + len(chunk)] = np.frombuffer(column, ">u8").reshape(-1, 2)
            self._turns.give()
        return np.lexsort((words[:, 1], words[:, 0]))

    def _shared(self) -> int:
        """How many bytes all of them begin with."""
        low, high = min(self._chunks[0]), max(self._chunks[0])
        for chunk in self._chunks:
            low, high = min(low, *chunk), max(high, *chunk)
            self._turns.give()
        length = min(len(low), len(high))
        return next((at for at in range(length) if low[at] != high[at]), length)

    def __iter__(self) -> Iterator[list[bytes]]:
        """Chunk by chunk, as often as wanted."""
        if len(self._chunks) < 2:
            yield from (sorted(chunk) for chunk in self._chunks)
        for at in range(0, self._order.size, CHUNK):
            yield [self._chunks[one // CHUNK][one % CHUNK] for one in self._order[at : at + CHUNK].tolist()]
            self._turns.give()

    def forget(self) -> None:
        """Free the entries; a million at once would hold the interpreter for 50 ms."""
        self._order = self._order[:0]
        while self._chunks:
            self._chunks.pop()
            self._turns.give()


def entry(keyspace: int, key: bytes, word: int) -> bytes:
    """What stands in the directory for a key."""
    if not 0 <= keyspace < KEYSPACES:
        raise InvalidError(f"keyspace {keyspace} has no place in the directory of keys: 0 to {KEYSPACES - 1} have")
    if len(key) <= PREFIX:
        return TAGS[keyspace] + key
    return TAGS[keyspace] + key[:PREFIX] + int(word).to_bytes(8, "big")


def span(keyspace: int, low: bytes, high: bytes | None) -> tuple[bytes, bytes]:
    """[first, stop) of the entries whose keys may lie in [low, high)."""
    tag = TAGS[keyspace]
    if high is None:
        stop = TAGS[keyspace + 1]
    else:
        stop = tag + high if len(high) <= PREFIX else group_end(tag + high[:PREFIX])
    return tag + low[:PREFIX], stop


def group_of(one: bytes) -> bytes | None:
    """What the entries of a group begin with; None for an entry that holds its whole key."""
    return one[:-8] if len(one) == LONG else None


def group_end(group: bytes) -> bytes:
    """Behind all entries that begin so."""
    return group + b"\xff" * 9


def next_keys(
    pull: Pull, keyspace: int, low: bytes, high: bytes | None, reverse: bool, count: int, resolve: Resolve
) -> list[bytes]:
    """The next keys of [low, high), at least `count` unless there are no more; a group stays together."""
    first, stop = span(keyspace, low, high)
    keys: list[bytes] = []
    while len(keys) < count and first < stop:
        wanted = max(count - len(keys), PULL)
        entries = pull(first, stop, reverse, wanted)
        if not entries:
            break
        first, stop = _complete(pull, entries, first, stop, reverse)
        keys += (key for key in _resolved(entries, reverse, resolve) if low <= key and (high is None or key < high))
        if len(entries) < wanted:
            break
    return keys


def _complete(pull: Pull, entries: list[bytes], first: bytes, stop: bytes, reverse: bool) -> tuple[bytes, bytes]:
    """Add the rest of the last one's group; return what is left of [first, stop)."""
    last, group = entries[-1], group_of(entries[-1])
    if group is None:
        return (first, last) if reverse else (last + b"\0", stop)
    start, end = group + b"\0", group_end(group)
    entries += pull(start, last, True, None) if reverse else pull(last + b"\0", end, False, None)
    return (first, start) if reverse else (end, stop)


def _resolved(entries: list[bytes], reverse: bool, resolve: Resolve) -> Iterator[bytes]:
    for group, members in groupby(entries, group_of):
        if group is None:
            yield from (one[1:] for one in members)
        else:
            full = {key for one in members for key in resolve(group[1:], int.from_bytes(one[-8:], "big"))}
            yield from sorted(full, reverse=reverse)
