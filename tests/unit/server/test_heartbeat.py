"""A heartbeat samples the counters, and closes connections that are idle for longer than the timeout."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

from pmkv_server.heartbeat import Heartbeat
from pmkv_server.stats import Stats


class Fake:
    """A connection that was active some seconds ago."""

    def __init__(self, stats: Stats, seconds: float, waits: bool = True) -> None:
        self.session = SimpleNamespace(active=stats.now - seconds, address="")
        self.is_waiting_for_input, self.is_closed = waits, False

    def close(self) -> None:
        self.is_closed = True


async def test_idle_connections_are_closed() -> None:
    stats = Stats()
    idle, busy, waiting = Fake(stats, 100), Fake(stats, 1), Fake(stats, 100, waits=False)
    heartbeat = Heartbeat(stats, lambda: [idle, busy, waiting])
    for timeout, closed in ((0, False), (200, False), (50, True)):
        heartbeat.timeout = timeout
        heartbeat.start(asyncio.get_running_loop())
        heartbeat.stop()
        assert [one.is_closed for one in (idle, busy, waiting)] == [closed, False, False]
