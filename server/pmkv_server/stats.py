"""The server's own counters; the store has its own."""

from __future__ import annotations

import time


class Stats:
    """Counted since the start, or since CONFIG RESETSTAT."""

    def __init__(self) -> None:
        self.started = time.time()
        self.reset()

    def reset(self) -> None:
        self.connections = 0
        self.rejected = 0
        self.cut_off = 0  # connections closed because the client sent on and on and read nothing
        self.commands = 0
        self.ticks = 0
        self.input_bytes = 0
        self.output_bytes = 0
