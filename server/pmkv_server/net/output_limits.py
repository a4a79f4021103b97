"""How much a client may leave unread: Redis' `client-output-buffer-limit` and `client-query-buffer-limit`.

Without a limit for output (the default) a client that does not read is served no further once a few megabytes wait for
it, and is disconnected when its unserved input reaches the limit for input. With one it is served up to that limit, and
disconnected beyond.
"""

from __future__ import annotations

import time
from typing import Any

from pmkv_server.parsing import memory_size, strict_int

PAUSE_BYTES = 4 << 20  # of replies, written or held, above which no more commands are served if there is no limit
QUERY_LIMIT_BYTES = 1 << 30  # a client is disconnected if a command is longer, or unserved input while it never reads
SMALLEST_QUERY_LIMIT_BYTES = 1 << 20
CLASSES = {"normal": (0, 0, 0), "slave": (256 << 20, 64 << 20, 60), "pubsub": (32 << 20, 8 << 20, 60)}
WATCH_S = 1.0  # between two looks at clients that may have been above the soft limit for too long


class OutputLimits:
    """The limits of all connections. hard, soft: bytes, 0 for none; a client may be above `soft` for `soft_s`."""

    def __init__(self) -> None:
        self._classes = dict(CLASSES)
        self.query_bytes = QUERY_LIMIT_BYTES
        self._apply()

    def _apply(self) -> None:
        self.hard, self.soft, self.soft_s = self._classes["normal"]
        self.is_set = bool(self.hard or (self.soft and self.soft_s))
        self.pause_bytes = max(self.hard, PAUSE_BYTES) if self.hard else max(self.soft, PAUSE_BYTES)

    def __str__(self) -> str:
        """Return what CONFIG GET client-output-buffer-limit shows."""
        return " ".join(f"{name} {hard} {soft} {seconds}" for name, (hard, soft, seconds) in self._classes.items())

    def set_output(self, text: str) -> None:
        """Take the value of CONFIG SET client-output-buffer-limit. ValueError: what is wrong with it."""
        words = text.split()
        if not words or len(words) % 4:
            raise ValueError("Wrong number of arguments in buffer limit configuration.")
        changed = dict(self._classes)
        for i in range(0, len(words), 4):
            name = {"replica": "slave"}.get(words[i].lower(), words[i].lower())
            if name not in changed:
                raise ValueError("Invalid client class specified in buffer limit configuration.")
            hard, soft, seconds = memory_size(words[i + 1]), memory_size(words[i + 2]), strict_int(words[i + 3])
            if hard is None or soft is None or seconds is None or seconds < 0:
                raise ValueError("Error in hard, soft or soft_seconds setting in buffer limit configuration.")
            changed[name] = (hard, soft, seconds)
        self._classes = changed
        self._apply()

    def set_query(self, text: str) -> None:
        """Take the value of CONFIG SET client-query-buffer-limit. ValueError: what is wrong with it."""
        size = memory_size(text)
        if size is None or size < SMALLEST_QUERY_LIMIT_BYTES:
            raise ValueError("argument must be a memory value of at least 1mb")
        self.query_bytes = size


class OutputWatch:
    """Judges one connection's unread output by the limits."""

    __slots__ = ("_soft_since",)

    def __init__(self) -> None:
        self._soft_since: float | None = None  # monotonic time since which it is above the soft limit

    def excess(self, limits: Any, unread: int) -> str | None:
        """Return which limit the unread bytes exceed, or None."""
        if limits.hard and unread > limits.hard:
            return f"more than {limits.hard} bytes"
        if not limits.soft or not limits.soft_s or unread <= limits.soft:
            self._soft_since = None
            return None
        now = time.monotonic()
        if self._soft_since is None:
            self._soft_since = now
        return (
            f"more than {limits.soft} bytes for {limits.soft_s} s" if now - self._soft_since > limits.soft_s else None
        )
