"""Hold the replies of one connection: those of the running tick, and earlier ones that wait until they are durable."""

from __future__ import annotations

from collections import deque

from pmkv_server.resp.scan import Reply

Held = tuple[int, list, int, int]  # LSN, buffers, replies, bytes


class Outbox:
    """Replies in the order of their commands. A reply is revealed once its LSN, and all before it, are durable."""

    __slots__ = ("buffers", "count", "held", "held_size", "lsn", "newest_lsn", "size")

    def __init__(self) -> None:
        self.buffers: list = []  # of the running tick
        self.size = 0  # bytes in `buffers`
        self.count = 0  # replies in `buffers`
        self.lsn = 0  # the highest LSN that a reply in `buffers` depends on
        self.newest_lsn = 0  # the highest LSN that any reply has depended on
        self.held: deque[Held] = deque()  # of earlier ticks, oldest first
        self.held_size = 0  # bytes in `held`

    def add(self, data: Reply, count: int, lsn: int) -> None:
        """Append `count` replies that may be revealed once `lsn` is durable."""
        if isinstance(data, list):
            self.buffers += data
            self.size += sum(map(len, data))
        else:
            self.buffers.append(data)
            self.size += len(data)
        self.count += count
        if lsn > self.lsn:
            self.lsn = lsn
            self.newest_lsn = max(self.newest_lsn, lsn)

    def end_tick(self, durable: int) -> tuple[list, int]:
        """Return the buffers of this tick and their bytes, or hold them and return none."""
        buffers, size = self.buffers, self.size
        if self.held or self.lsn > durable:
            self.held.append((self.lsn, buffers, self.count, size))
            self.held_size += size
            buffers, size = [], 0
        self.buffers, self.size, self.count, self.lsn = [], 0, 0, 0
        return buffers, size

    def take_durable(self, durable: int, error: bytes | None) -> tuple[list, int]:
        """Remove the held replies that are durable; return their buffers and bytes.

        error: if given, removes all others as well, and stands in the place of each.
        """
        held, buffers, total = self.held, [], 0
        while held and (held[0][0] <= durable or error):
            lsn, replies, count, size = held.popleft()
            buffers += replies if lsn <= durable else [error * count]
            total += size
        self.held_size -= total
        return buffers, total

    def discard_tick(self) -> None:
        """Forget the replies of the running tick."""
        self.buffers, self.size, self.count = [], 0, 0

    def discard_held(self) -> None:
        """Forget the replies of earlier ticks."""
        self.held.clear()
        self.held_size = 0
