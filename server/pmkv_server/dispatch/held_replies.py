"""Hold replies until what they depend on is durable, and release them then, or as errors if a flush failed.

The flush thread tells of each flush by `_on_durable`; everything else runs on the loop's thread.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from pmkv_server.commands.execution import not_durable

if TYPE_CHECKING:
    from pmkv_server.dispatch.fast_path import FastPath
    from pmkv_server.net.connection import Connection
    from pmkv_server.server import Server


class HeldReplies:
    """Knows the connections whose outbox holds replies; the replies themselves are there."""

    def __init__(self, server: Server, loop: asyncio.AbstractEventLoop, fast_path: FastPath | None) -> None:
        self._server = server
        self._store: Any = server.store
        self._call_threadsafe = loop.call_soon_threadsafe
        self._fast_path = fast_path
        self.connections: dict[Connection, None] = {}  # oldest first
        self._is_wake_sent = False
        self._store.on_durable(self._on_durable)

    def deliver(self, connections: list[Connection]) -> None:
        """Write the replies of a tick that may be revealed, and hold the others."""
        durable = self._store.durable_lsn
        held = [connection for connection in connections if connection.deliver(durable)]
        if held:
            self.connections.update(dict.fromkeys(held))
            if self._store.durable_lsn != durable or self._store.failed:  # a flush ended before they were in the dict
                self._release()

    def _on_durable(self) -> None:
        """Wake the loop if anything waits: more is durable, or a flush failed. Called on any thread."""
        fast = self._fast_path
        waiting = self.connections or self._server.waiters or (fast is not None and fast.held)
        if waiting and not self._is_wake_sent:
            self._is_wake_sent = True
            self._call_threadsafe(self._release)

    def _release(self) -> None:
        """Write all replies that are durable by now, and wake those who wait in `Server.durable`."""
        self._is_wake_sent = False
        if self._fast_path is not None:
            self._fast_path.reveal()
        failed, durable = self._store.failed, self._store.durable_lsn
        for connection in list(self.connections):
            if not connection.release(durable, not_durable(failed) if failed else None):
                del self.connections[connection]
        self._server.wake()
