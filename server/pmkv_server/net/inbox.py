"""Hold the bytes that a connection has received and that no tick has served yet."""

from __future__ import annotations

from typing import Any


class Inbox:
    """Received chunks in order: bytes, or a view of a large command's buffer."""

    __slots__ = ("chunks", "need", "size")

    def __init__(self) -> None:
        self.chunks: list[Any] = []
        self.size = 0  # bytes in all chunks
        self.need = 0  # bytes without which the first command cannot be complete

    @property
    def has_work(self) -> bool:
        """Say whether the first command may be complete."""
        return self.size > 0 and self.size >= self.need

    def is_last(self, chunk: Any) -> bool:
        """Say whether this very object was received last, and is still here."""
        return bool(self.chunks) and self.chunks[-1] is chunk

    def replace_last(self, chunk: Any) -> None:
        """Put a chunk that begins with the last one in its place."""
        self.size += len(chunk) - len(self.chunks.pop())
        self.chunks.append(chunk)

    def take(self) -> list[Any]:
        """Return all chunks and leave none."""
        chunks, self.chunks, self.size = self.chunks, [], 0
        return chunks

    def put_back(self, data: Any, start: int, end: int) -> None:
        """Put a copy of data[start:end] before everything else."""
        if start < end:
            self.chunks.insert(0, bytes(data[start:end]))
            self.size += end - start

    def clear(self) -> None:
        self.chunks, self.size = [], 0
