"""How long commands arrive: the transport receives straight into the room of the command at hand, which is as large as
its headers say. In pieces, to be joined, all of it would be copied twice more, into memory that is new each time. What
is missing of a very long one is received by a worker, as long as it comes quickly: meanwhile the loop serves others.

Assumes: all methods run on the loop's thread.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from pmkv_server.net.transport import receive_long

if TYPE_CHECKING:
    from pmkv_server.net.connection import Connection

MUCH = 128 << 10  # missing bytes that are worth a worker
LEAST = 64 << 10  # bytes of a room that is made before anything is known of what comes


class LargeCommand(asyncio.BufferedProtocol):
    """In place of a connection, as its transport's protocol, from its first long command on."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._room: memoryview | None = None
        self._start = self._filled = 0  # of the room, where what is at hand begins, and where it ends by now
        self._need = 0  # bytes of it without which it is not worth a look
        self._given: memoryview | None = None  # what of the room the connection has, or had: up to where it was filled
        self._usual = LEAST
        self._is_slow = False  # a worker waited for the rest of it in vain
        self.eof_received, self.connection_lost = connection.eof_received, connection.connection_lost
        self.pause_writing, self.resume_writing = connection.pause_writing, connection.resume_writing

    @property
    def size(self) -> int:
        """Bytes of the beginning of a command that the connection does not have yet."""
        return self._filled - self._start if self._need else 0

    @property
    def is_long(self) -> bool:
        """Is so much of the command at hand missing that a worker should receive it?"""
        return not self._is_slow and self._need > 0 and self._start + self._need - self._filled >= MUCH

    def go_on(self) -> None:
        """The connection may be read from."""
        if self.is_long:
            self._receive_elsewhere()

    def begin(self, data: Any, position: int, end: int, behind: list[Any], need: int) -> None:
        """A command of at least `need` bytes has come so far: data[position:end], then what is behind."""
        self._usual = max(need, LEAST) if need <= MUCH else LEAST
        start = self._filled - len(data) + position
        if self._room is None or behind or data is not self._given or start + need > len(self._room):
            self._move([data[position:end], *behind], need)
            start = 0
        self._start, self._need, self._given, self._is_slow = start, need, None, False
        self._look()

    def _move(self, pieces: list[Any], need: int) -> None:
        """To a room of its own."""
        self._room = memoryview(np.empty(max(need, 2 * sum(map(len, pieces))), np.uint8))
        self._filled = 0
        for piece in pieces:
            self._room[self._filled : self._filled + len(piece)] = piece
            self._filled += len(piece)

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._room is None:
            self._room, self._start, self._filled = memoryview(np.empty(self._usual, np.uint8)), 0, 0
        return self._room[self._filled :]

    def buffer_updated(self, count: int) -> None:
        if self._given is not None and not self._connection.has_last(self._given):
            self._start = self._filled  # it was taken to be served
        self._filled += count
        self._look()

    def _look(self) -> None:
        """Give what is at hand, if it is enough; or once more, if it became longer meanwhile."""
        if self._room is None or self._filled - self._start < max(self._need, 1):
            self.go_on()
            self._connection.regulate()
            return
        before, self._given, self._need = self._given, self._room[self._start : self._filled], 0
        self._connection.arrived(self._given, before)
        if self._filled == len(self._room):
            self._room = self._given = None
        self._connection.regulate()

    def _receive_elsewhere(self) -> None:
        """What is missing, by a worker: through a descriptor of its own, as the connection may end meanwhile."""
        file = self._connection.lend_socket()
        if file < 0:
            return
        missing = np.asarray(self._room)[self._filled : self._start + self._need]

        def work() -> int:
            try:
                return int(receive_long(file, missing, np.empty(2, np.int32), np.empty(2, np.int64)))
            finally:
                os.close(file)

        def done(count: int) -> None:
            self._connection.lent, self._is_slow = False, count < missing.size
            self.buffer_updated(count)

        self._connection.elsewhere(work, done)
