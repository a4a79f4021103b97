"""Counters of the server. They are apart from metrics.py, whose imports take 0.1 s of a start."""

from __future__ import annotations

import time
from collections import defaultdict

RATED = ("commands", "input_bytes", "output_bytes")  # counters whose present rate INFO shows


class CommandFigures:
    """Figures about one command: calls, the time they took, calls refused before they ran, and calls that failed."""

    __slots__ = ("calls", "failed", "nanoseconds", "rejected")

    def __init__(self) -> None:
        self.calls = self.nanoseconds = self.rejected = self.failed = 0


class Stats:
    """Counters since the start or the last CONFIG RESETSTAT. `now`: the unix time of the last sample, which is cheaper
    to read than the clock. Worker threads count without a lock, so that a few calls may be lost."""

    def __init__(self) -> None:
        self.started = self.now = time.time()
        self.rates = dict.fromkeys(RATED, 0.0)  # per second, between the last two samples
        self._last = (self.started, dict.fromkeys(RATED, 0))
        self.reset()

    def reset(self) -> None:
        """Set all counters to zero; `started` stays."""
        self.connections = 0
        self.rejected = 0
        self.cut_off = 0  # connections closed because the client sent on and on and read nothing
        self.output_cut_off = 0  # connections closed because the client left more unread than the limit for output
        self.commands = 0
        self.ticks = 0
        self.input_bytes = 0
        self.output_bytes = 0
        self.by_command: defaultdict[str, CommandFigures] = defaultdict(CommandFigures)
        self.errors: defaultdict[str, int] = defaultdict(int)  # error replies by their code
        self._last = (self._last[0], dict.fromkeys(RATED, 0))

    def count(self, name: str, calls: int, nanoseconds: int) -> None:
        """Count calls of a command."""
        figures = self.by_command[name]
        figures.calls += calls
        figures.nanoseconds += nanoseconds

    def count_error(self, reply: bytes) -> None:
        """Count an error reply by its code, its first word."""
        self.errors[reply[1:64].split(None, 1)[0].decode("ascii", "replace")] += 1

    def sample(self) -> None:
        """Take the time, and the rates since the last sample."""
        then, before = self._last
        self.now, counts = time.time(), {name: getattr(self, name) for name in RATED}
        seconds = max(self.now - then, 0.001)
        self.rates = {name: max(counts[name] - before[name], 0) / seconds for name in RATED}
        self._last = self.now, counts
