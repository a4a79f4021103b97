"""Hold the bytes that a connection has received and that no tick has served yet."""

from __future__ import annotations

from collections import deque
from typing import Any

WINDOW_BYTES = 1 << 20  # of one connection's input that a tick looks at at most, unless its first command is longer
LEAST_WINDOW_BYTES = 16 << 10  # that it looks at, however long the last commands took
COPIED_BYTES = WINDOW_BYTES  # input that is put back is copied up to this length; else it is a view


class Inbox:
    """Received chunks in order: bytes, or views of longer buffers."""

    __slots__ = ("chunks", "need", "reach", "size")

    def __init__(self) -> None:
        self.chunks: deque[Any] = deque()
        self.size = 0  # bytes in all chunks
        self.need = 0  # bytes without which the first command cannot be complete
        self.reach = WINDOW_BYTES  # that a tick is expected to have time for

    @property
    def has_work(self) -> bool:
        """Say whether the first command may be complete."""
        return self.size > 0 and self.size >= self.need

    @property
    def window(self) -> int:
        """Return how many bytes the next tick is to look at, at most.

        A command that was not whole is looked at in steps that double, as its beginning is read again each time.
        """
        return min(self.size, max(self.reach, 2 * self.need))

    def learn(self, served: int, is_all: bool) -> None:
        """Adapt how many bytes the next tick looks at: this one had time to serve `served` bytes."""
        self.reach = min(max(2 * self.reach if is_all else 2 * served, LEAST_WINDOW_BYTES), WINDOW_BYTES)

    def add(self, chunk: Any) -> None:
        """Append a chunk."""
        self.chunks.append(chunk)
        self.size += len(chunk)

    def is_last(self, chunk: Any) -> bool:
        """Say whether this very object was received last, and is still here."""
        return bool(self.chunks) and self.chunks[-1] is chunk

    def replace_last(self, chunk: Any) -> None:
        """Put a chunk that begins with the last one in its place."""
        self.size += len(chunk) - len(self.chunks.pop())
        self.chunks.append(chunk)

    def take(self, limit: int | None = None) -> list[Any]:
        """Return the first chunks, up to `limit` bytes, and keep the others; without a limit return all."""
        if limit is None or limit >= self.size:
            chunks, self.chunks, self.size = list(self.chunks), deque(), 0
            return chunks
        taken, left = [], limit
        self.size -= limit
        while left > 0:
            chunk = self.chunks.popleft()
            if len(chunk) > left:
                view = memoryview(chunk)
                self.chunks.appendleft(view[left:])
                chunk = view[:left]
            taken.append(chunk)
            left -= len(chunk)
        return taken

    def put_back(self, data: Any, start: int, end: int) -> None:
        """Put data[start:end] before everything else."""
        if start < end:
            is_short = end - start <= COPIED_BYTES
            self.chunks.appendleft(bytes(data[start:end]) if is_short else memoryview(data)[start:end])
            self.size += end - start

    def clear(self) -> None:
        self.chunks, self.size = deque(), 0
