"""Long replies of known length, read from the socket into arrays: one copy, where redis-py's parser makes three.

The first bytes of a reply are peeked at. An unexpected reply (an error, a push message, rows of another width) is left
to redis-py's parser, as is every reply over TLS and on a connection whose parser has read ahead. No other module uses
private attributes of redis-py; where they are missing, the parser reads the reply.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from redis import exceptions

MIN_REPLY_BYTES = 16 << 10  # below this a parser is as fast
MAX_BLOBS = 256  # per reply: recvmsg takes 1,024 buffers, and each blob needs two

Bytes = NDArray[np.uint8]
IS_SWITCHED_OFF = os.environ.get("PMKV_ARRAY_READER") == "off"  # redis-py's parser then reads every reply


@dataclass(frozen=True, slots=True)
class ArrayReader:
    """Reads a reply of bulk strings of known sizes: an array of them, or a single one if `is_alone`.

    into: the memory for the first of them, else it gets an array of its own."""

    sizes: tuple[int, ...]
    is_alone: bool = False
    into: Bytes | None = None

    @property
    def is_worthwhile(self) -> bool:
        return sum(self.sizes) >= MIN_REPLY_BYTES and len(self.sizes) <= MAX_BLOBS

    def separators(self) -> list[bytes]:
        """Return the protocol's bytes before each blob, and after the last."""
        lengths = [b"$%d\r\n" % size for size in self.sizes]
        first = lengths[0] if self.is_alone else b"*%d\r\n" % len(lengths) + lengths[0]
        return [first, *(b"\r\n" + length for length in lengths[1:]), b"\r\n"]

    def read(self, connection: Any) -> Any:
        """Return the next reply on a connection of redis.Redis in uint8 arrays, or None with nothing consumed."""
        stream = getattr(connection, "_sock", None)
        if IS_SWITCHED_OFF or type(stream) is not socket.socket or not _parser_is_empty(connection):
            return None
        separators = self.separators()
        blobs = [np.empty(size, np.uint8) for size in self.sizes]
        if self.into is not None:
            blobs[0] = self.into
        try:
            if stream.recv(len(separators[0]), socket.MSG_PEEK) != separators[0]:
                return None
            _receive(stream, blobs, separators)
        except TimeoutError as error:
            connection.disconnect()
            raise exceptions.TimeoutError("Timeout reading from socket") from error
        except OSError as error:
            connection.disconnect()
            raise exceptions.ConnectionError(f"Error while reading from socket: {error.args}") from error
        except BaseException:
            connection.disconnect()
            raise
        return blobs[0] if self.is_alone else blobs


def _receive(stream: socket.socket, blobs: list[Bytes], separators: list[bytes]) -> None:
    """Fill the blobs in as few system calls as possible, and check the bytes between them."""
    received = [bytearray(len(separator)) for separator in separators]
    buffers = [memoryview(received[0])]
    for blob, separator in zip(blobs, received[1:]):
        buffers += [blob.data, memoryview(separator)]
    while buffers:
        count = stream.recvmsg_into(buffers)[0]
        if not count:
            raise exceptions.ConnectionError("Connection closed by server.")
        while buffers and count >= len(buffers[0]):
            count -= len(buffers.pop(0))
        if count:
            buffers[0] = buffers[0][count:]
    _check(received, separators)


def _check(received: list[bytearray], separators: list[bytes]) -> None:
    if received != separators:
        raise exceptions.InvalidResponse(f"Protocol Error: {[bytes(one) for one in received]} came, not {separators}")


def _parser_is_empty(connection: Any) -> bool:
    """Return whether redis-py's parser holds no bytes of this connection. An unknown parser counts as not empty."""
    parser = connection._parser
    try:
        if hasattr(parser, "_reader"):  # hiredis
            return not parser._reader.has_data()
        buffer = parser._buffer
        return not (buffer if isinstance(buffer, bytes) else buffer.unread_bytes())
    except AttributeError:  # another parser, or one that was disconnected
        return False
