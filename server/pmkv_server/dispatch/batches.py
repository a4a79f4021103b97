"""Turn one scan into batches: which part of it each connection sent, and the replies to many GETs or SETs at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pmkv import BytesArray
from pmkv_server.commands.execution import failure
from pmkv_server.resp.replies import Replies
from pmkv_server.resp.scan import NULL, OK, Reply, Scan, blob_or_null, chunks

if TYPE_CHECKING:
    from pmkv_server.net.connection import Connection

DAMAGED_BYTES = 1 << 20  # as which a value counts whose length cannot be read

ScanSlice = tuple["Connection", int, int, int, list[int]]  # its first row, its first byte, its end, its state


def slices(connections: list[Connection], sizes: list[int], found: Scan) -> Iterator[ScanSlice]:
    """Yield which rows and bytes of a scan each connection sent; sizes: as given to the scan."""
    row = end = 0
    for connection, size, state in zip(connections, sizes, found.states):
        first, row = row, state[0]
        start, end = end, end + abs(size)
        yield connection, first, start, end, state


def get_replies(
    keyspace: Any, keys: BytesArray, connections: list[Connection], counts: Sequence[int]
) -> Replies | None:
    """Return the replies to GETs, counts[i] of them for connections[i]; None if the values are long, or damaged."""
    try:
        values = keyspace.get_spans(keys)
    except Exception:
        return None
    if values is None:
        return None
    if not values.absent or all(c.session.protocol == 2 for c in connections):
        return Replies.bulks(values)
    nulls = [null for c, count in zip(connections, counts) for null in [NULL[c.session.protocol]] * count]
    return Replies.of([null if v is None else b"$%d\r\n%b\r\n" % (len(v), v) for v, null in zip(values, nulls)])


def long_replies(
    keyspace: Any, keys: BytesArray, connections: list[Connection], counts: Sequence[int], room: int
) -> list[tuple[Reply, int]]:
    """Return the reply to the first GETs of each connection, and how many they are: one, or as `room` bytes hold.

    A key that cannot be read gets an error.
    """
    found, end = [], 0
    for connection, count in zip(connections, counts):
        start, end = end, end + count
        ends = np.cumsum(_sizes(keyspace, keys[start:end]))
        served = max(1, int(np.searchsorted(ends, room, "right")))
        values, protocol = _values(keyspace, list(keys[start : start + served])), connection.session.protocol
        replies = [failure(v) if isinstance(v, Exception) else blob_or_null(v, protocol) for v in values]
        found.append(([part for reply in replies for part in chunks(reply)], served))
    return found


def _sizes(keyspace: Any, keys: BytesArray) -> list[int]:
    """Return the lengths of values; a guess if they are damaged."""
    try:
        return [size or 0 for size in keyspace.sizes(keys)]
    except Exception:
        return [DAMAGED_BYTES] * len(keys)


def _values(keyspace: Any, keys: list[bytes]) -> list[Any]:
    try:
        return keyspace.get_many(keys)
    except Exception:
        return [_outcome(keyspace.get, key) for key in keys]


def get_commands(keys: BytesArray) -> bytes:
    """Return GET commands as a client would send them."""
    return b"".join(b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(key), key) for key in keys)


def set_replies(keyspace: Any, keys: BytesArray, values: BytesArray) -> Replies:
    """Carry out SETs and return their replies. A key or value that is refused gets an error, the others are stored."""
    try:
        keyspace.put_entries(keys, values, np.zeros(len(keys), np.int64))
    except Exception:
        outcomes = [_outcome(keyspace.put, *pair) for pair in zip(keys, values)]
        return Replies.of([OK if outcome is None else failure(outcome) for outcome in outcomes])
    return Replies.same(OK, len(keys))


def _outcome(function: Callable, *arguments: bytes) -> Any:
    """Return what one command of a failed batch gives alone, or the exception that it raises."""
    try:
        return function(*arguments)
    except Exception as problem:
        return problem
