"""Long replies of known length, read from the socket into arrays: copied once, where a parser copies three times.

The head of a reply is looked at before it is taken. What is not as expected (an error, a push message, rows of another
width) is left to redis-py's parser, as is every reply over TLS and of a connection whose parser has read ahead. All
functions return None where they left it alone.
"""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from redis import exceptions

LEAST = 16 << 10  # bytes below which a parser is as fast
MOST = 256  # blobs of a reply: the system takes 1,024 places at once

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class ArrayReader:
    """A reply of bulk strings of these sizes: an array of them, or `alone` the only one."""

    sizes: tuple[int, ...]
    alone: bool = False

    @property
    def is_worth_it(self) -> bool:
        return sum(self.sizes) >= LEAST and len(self.sizes) <= MOST

    def heads(self) -> list[bytes]:
        """What stands before each blob, and behind the last."""
        heads = [b"$%d\r\n" % size for size in self.sizes]
        first = heads[0] if self.alone else b"*%d\r\n" % len(heads) + heads[0]
        return [first, *(b"\r\n" + head for head in heads[1:]), b"\r\n"]

    def room(self) -> list[Bytes]:
        return [np.empty(size, np.uint8) for size in self.sizes]

    def reply(self, room: list[Bytes]) -> Any:
        return room[0] if self.alone else room


def read(connection: Any, blobs: ArrayReader) -> Any:
    """The reply that a connection of redis.Redis waits for, in arrays, or None."""
    stream = getattr(connection, "_sock", None)
    if type(stream) is not socket.socket or not _is_level(connection):
        return None
    heads, room = blobs.heads(), blobs.room()
    try:
        if stream.recv(len(heads[0]), socket.MSG_PEEK) != heads[0]:
            return None
        _fill(stream, room, heads)
    except TimeoutError as problem:
        connection.disconnect()
        raise exceptions.TimeoutError("Timeout reading from socket") from problem
    except OSError as problem:
        connection.disconnect()
        raise exceptions.ConnectionError(f"Error while reading from socket: {problem.args}") from problem
    except BaseException:
        connection.disconnect()
        raise
    return blobs.reply(room)


def _fill(stream: socket.socket, room: list[Bytes], heads: list[bytes]) -> None:
    """Read everything in as few calls as the system allows: what is expected between the blobs, and the blobs."""
    between = [bytearray(len(head)) for head in heads]
    views = [memoryview(between[0])]
    for blob, behind in zip(room, between[1:]):
        views += [blob.data, memoryview(behind)]
    while views:
        count = stream.recvmsg_into(views)[0]
        if not count:
            raise exceptions.ConnectionError("Connection closed by server.")
        while views and count >= len(views[0]):
            count -= len(views.pop(0))
        if count:
            views[0] = views[0][count:]
    _check(between, heads)


async def read_async(connection: Any, blobs: ArrayReader) -> Any:
    """The reply that a connection of redis.asyncio.Redis waits for, in arrays, or None."""
    stream = getattr(connection, "_reader", None)
    if type(stream) is not asyncio.StreamReader or not _is_level(connection):
        return None
    heads, room = blobs.heads(), blobs.room()
    try:
        async with asyncio.timeout(connection.socket_timeout):
            first = await stream.read(len(heads[0]))
            if first != heads[0]:
                stream._buffer[:0] = first
                return None
            for blob, behind in zip(room, heads[1:]):
                await _fill_async(stream, blob)
                _check([await stream.readexactly(len(behind))], [behind])
    except TimeoutError as problem:
        await connection.disconnect(nowait=True)
        raise exceptions.TimeoutError("Timeout reading from socket") from problem
    except (OSError, EOFError) as problem:
        await connection.disconnect(nowait=True)
        raise exceptions.ConnectionError(f"Error while reading from socket: {problem.args}") from problem
    except BaseException:
        await connection.disconnect(nowait=True)
        raise
    return blobs.reply(room)


async def _fill_async(stream: asyncio.StreamReader, blob: Bytes) -> None:
    view, at = blob.data, 0
    while at < len(view):
        piece = await stream.read(len(view) - at)
        if not piece:
            raise exceptions.ConnectionError("Connection closed by server.")
        view[at : at + len(piece)] = piece
        at += len(piece)


def _check(found: list[Any], heads: list[bytes]) -> None:
    if found != heads:
        raise exceptions.InvalidResponse(f"Protocol Error: {[bytes(part) for part in found]} came, not {heads}")


def _is_level(connection: Any) -> bool:
    """Has redis-py's parser taken nothing from the connection that it did not give yet?"""
    parser = connection._parser
    try:
        if hasattr(parser, "_reader"):  # hiredis
            return not parser._reader.has_data()
        buffer = parser._buffer
        return not (buffer if isinstance(buffer, bytes) else buffer.unread_bytes())
    except AttributeError:  # another parser, or one that was disconnected
        return False
