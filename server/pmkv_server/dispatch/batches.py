"""Turn one scan into batches: which part of it each connection sent, and the replies to many GETs or SETs at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pmkv import BytesArray
from pmkv_server.commands.execution import failure
from pmkv_server.resp.replies import Replies
from pmkv_server.resp.scan import NULL, OK, Scan

if TYPE_CHECKING:
    from pmkv_server.net.connection import Connection

ScanSlice = tuple["Connection", int, int, int, list[int]]  # its first row, its first byte, its end, its state


def slices(connections: list[Connection], sizes: list[int], found: Scan) -> Iterator[ScanSlice]:
    """Yield which rows and bytes of a scan each connection sent; sizes: as given to the scan."""
    row = end = 0
    for connection, size, state in zip(connections, sizes, found.states):
        first, row = row, state[0]
        start, end = end, end + abs(size)
        yield connection, first, start, end, state


def get_replies(keyspace: Any, keys: BytesArray, connections: list[Connection], counts: Sequence[int]) -> Replies:
    """Return the replies to GETs, counts[i] of them for connections[i]. A key that cannot be read gets an error."""
    try:
        values = keyspace.get_spans(keys)
    except Exception:
        values = None
    if values is not None and (not values.absent or all(c.session.protocol == 2 for c in connections)):
        return Replies.bulks(values)
    nulls = [null for c, count in zip(connections, counts) for null in [NULL[c.session.protocol]] * count]
    try:
        found = keyspace.get_many(list(keys))
    except Exception:
        found = [_outcome(keyspace.get, key) for key in keys]
    return Replies.of([_get_reply(value, null) for value, null in zip(found, nulls)])


def set_replies(keyspace: Any, keys: BytesArray, values: BytesArray) -> Replies:
    """Carry out SETs and return their replies. A key or value that is refused gets an error, the others are stored."""
    try:
        keyspace.put_entries(keys, values, np.zeros(len(keys), np.int64))
    except Exception:
        outcomes = [_outcome(keyspace.put, *pair) for pair in zip(keys, values)]
        return Replies.of([OK if outcome is None else failure(outcome) for outcome in outcomes])
    return Replies.same(OK, len(keys))


def _get_reply(value: bytes | bytearray | None, null: bytes) -> bytes:
    if value is None:
        return null
    return failure(value) if isinstance(value, Exception) else b"$%d\r\n%b\r\n" % (len(value), value)


def _outcome(function: Callable, *arguments: bytes) -> Any:
    """Return what one command of a failed batch gives alone, or the exception that it raises."""
    try:
        return function(*arguments)
    except Exception as problem:
        return problem
