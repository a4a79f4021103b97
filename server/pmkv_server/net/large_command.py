"""Receive large commands into one buffer each, as large as their headers say.

Received in chunks and joined, a command would be copied twice more, into memory that is new each time.
All methods run on the loop's thread.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pmkv_server.net.connection import Connection

FIRST_BUFFER_BYTES = 64 << 10  # of a buffer that is made before anything is known of the next command
LARGEST_FIRST_BUFFER_BYTES = 128 << 10  # of such a buffer, after commands that need more than the usual


class LargeCommand(asyncio.BufferedProtocol):
    """Replaces a connection as its transport's protocol, from its first large command on."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._buffer: memoryview | None = None
        self._start = self._filled = 0  # offsets in the buffer: where the current command begins; end of what came
        self._need = 0  # bytes of the current command without which scanning it is of no use
        self._given: memoryview | None = None  # what of the buffer was last put into the connection's inbox
        self._first_bytes = FIRST_BUFFER_BYTES  # of the next buffer that is made ahead
        self.eof_received, self.connection_lost = connection.eof_received, connection.connection_lost
        self.pause_writing, self.resume_writing = connection.pause_writing, connection.resume_writing

    @property
    def size(self) -> int:
        """Bytes of an incomplete command, which the connection's inbox does not have yet."""
        return self._filled - self._start if self._need else 0

    def begin(self, data: Any, position: int, end: int, later: list[Any], need: int) -> None:
        """Go on receiving a command of at least `need` bytes, of which data[position:end] and then `later` came."""
        fits = FIRST_BUFFER_BYTES < need <= LARGEST_FIRST_BUFFER_BYTES
        self._first_bytes = need if fits else FIRST_BUFFER_BYTES
        start = self._filled - len(data) + position
        if self._buffer is None or later or data is not self._given or start + need > len(self._buffer):
            self._move([data[position:end], *later], need)
            start = 0
        self._start, self._need, self._given = start, need, None
        self._hand_over()

    def _move(self, chunks: list[Any], need: int) -> None:
        """Copy what came of the current command into a new buffer of its size."""
        self._buffer = memoryview(np.empty(max(need, 2 * sum(map(len, chunks))), np.uint8))
        self._filled = 0
        for chunk in chunks:
            self._buffer[self._filled : self._filled + len(chunk)] = chunk
            self._filled += len(chunk)

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._buffer is None:
            self._buffer, self._start, self._filled = memoryview(np.empty(self._first_bytes, np.uint8)), 0, 0
        return self._buffer[self._filled :]

    def buffer_updated(self, count: int) -> None:
        if self._given is not None and not self._connection.inbox.is_last(self._given):
            self._start = self._filled  # a tick has taken what was given
        self._filled += count
        self._hand_over()

    def _hand_over(self) -> None:
        """Put the current command into the inbox if enough of it came; replace what is there if that became longer."""
        if self._buffer is not None and self._filled - self._start >= max(self._need, 1):
            before, self._given, self._need = self._given, self._buffer[self._start : self._filled], 0
            self._connection.append(self._given, before)
            if self._filled == len(self._buffer):
                self._buffer = self._given = None
        self._connection.regulate()
