"""The heartbeat of the server: once a second it samples counters, and closes connections that are idle for too long."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from pmkv_server.stats import Stats

if TYPE_CHECKING:
    import asyncio

    from pmkv_server.net.connection import Connection

log = logging.getLogger("pmkv.server")

PERIOD_S = 1.0


class Heartbeat:
    """Beats on the loop's thread. timeout: seconds after which an idle connection is closed, 0 for never."""

    def __init__(self, stats: Stats, connections: Callable[[], Iterable[Connection]]) -> None:
        self._stats, self._connections = stats, connections
        self.timeout = 0
        self._timer: asyncio.TimerHandle | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Beat from now on."""
        self._stats.sample()
        if self.timeout:
            self._close_idle()
        self._timer = loop.call_later(PERIOD_S, self.start, loop)

    def stop(self) -> None:
        """Beat no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _close_idle(self) -> None:
        """Close the connections of clients that have said nothing for too long, and wait for nothing."""
        for connection in list(self._connections()):
            idle = self._stats.now - connection.session.active
            if idle > self.timeout and connection.is_waiting_for_input:
                log.info("%s was idle for %d s: closed", connection.session.address, idle)
                connection.close()
