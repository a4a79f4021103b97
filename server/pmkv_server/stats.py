"""Counters of the server. They are apart from metrics.py, whose imports take 0.1 s of a start."""

from __future__ import annotations

import time


class Stats:
    """Counters since the start or the last CONFIG RESETSTAT."""

    def __init__(self) -> None:
        self.started = time.time()
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
