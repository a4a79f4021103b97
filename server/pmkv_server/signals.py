"""Signals: the first SIGTERM or SIGINT stops the server cleanly, whenever it comes.

Shells, `timeout` and systemd send a signal twice within milliseconds, so that repetitions say nothing new. One that
comes later is from somebody who does not want to wait: it ends the process at once. SIGHUP, SIGUSR1 and SIGUSR2, which
would end the process, are ignored: a server outlives its terminal, and has no file to read again.
"""

from __future__ import annotations

import logging
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

log = logging.getLogger("pmkv.server")

STOPPING = (signal.SIGTERM, signal.SIGINT)
IGNORED = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
REPEATED_S = 1.0  # further signals within so many seconds of the first are the same request


class StopSignals:
    """A context manager that takes the signals of this process inside; `attach` says what stops the server."""

    def __init__(self) -> None:
        self.received_at: float | None = None  # monotonic time of the first signal
        self._stop: Callable[[], None] | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        """Take the signals, as early as possible: Python's own handlers would end the start half-way."""
        for number in STOPPING:
            self._before[number] = signal.signal(number, lambda *_: self.receive())
        for number in IGNORED:
            self._before[number] = signal.signal(number, signal.SIG_IGN)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def attach(self, loop: Any, stop: Callable[[], None]) -> None:
        """Call `stop` on the loop for the first signal; at once if it came during the start."""
        self._stop = stop
        for number in STOPPING:
            loop.add_signal_handler(number, self.receive)
        if self.received_at is not None:
            stop()

    def receive(self) -> None:
        """Stop the server, or end the process if it was told to stop some time ago."""
        now = time.monotonic()
        if self.received_at is None:
            self.received_at = now
            if self._stop is not None:
                self._stop()
        elif now - self.received_at > REPEATED_S:
            log.warning("a further signal: ending at once; the log is replayed at the next start")
            logging.shutdown()
            sys.stderr.flush()
            signal.raise_signal(signal.SIGKILL)
