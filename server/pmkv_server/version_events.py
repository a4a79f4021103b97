"""Tell clients of version events: promotions, rollbacks and undos of `main`.

The store reports an event from any thread, perhaps before it is durable. It is revealed once it is durable; with a
store that does not commit durably, at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

VersionEvent = tuple[int, int]  # the number of this event, counted from 1, and its LSN


class VersionEvents:
    """Counts the version events, and knows who waits for the next one or is told of each.

    There are none before `attach`. All methods but `_on_switch` run on the loop's thread.
    """

    def __init__(self) -> None:
        self.followers: set[Callable[[int, int], None]] = set()
        self._known: VersionEvent = (0, 0)  # the last one that may be revealed
        self._told = 0  # the number of the last one that the followers know
        self._pending: deque[VersionEvent] = deque()  # not revealed yet, oldest first
        self._lock = threading.Lock()  # guards `_known` and `_pending`
        self._waiting: dict[asyncio.Future[VersionEvent | None], int] = {}  # the number that each has seen
        self._watcher: asyncio.Task[None] | None = None  # waits until the oldest pending event is durable
        self._closed = False

    def attach(self, store: Any, loop: asyncio.AbstractEventLoop, durable: Callable[[int], Awaitable[None]]) -> None:
        """Follow a store whose events so far are durable.

        durable: an async function that returns once an LSN is durable, and raises if it never will be
        """
        self._store, self._loop, self._durable = store, loop, durable
        self._known = store.main_changes
        self._told = self._known[0]
        store.on_switch(self._on_switch)

    @property
    def latest(self) -> VersionEvent:
        """Return the last event that may be revealed."""
        with self._lock:
            while self._pending and self._may_be_revealed(self._pending[0]):
                self._known = max(self._known, self._pending.popleft())
            return self._known

    @property
    def version(self) -> VersionEvent:
        """Return the number of events and the LSN of the last write, as far as these may be revealed."""
        durable = self._store.durability == "commit"
        return self.latest[0], self._store.durable_lsn if durable else self._store.version[1]

    def _may_be_revealed(self, event: VersionEvent) -> bool:
        return self._store.durability != "commit" or event[1] <= self._store.durable_lsn

    @property
    def waiting(self) -> int:
        """Return how many clients wait for an event."""
        return len(self._waiting)

    async def wait(self, version: int, seconds: float | None) -> VersionEvent | None:
        """Return the last event once there have been more than `version`.

        Returns None after so many seconds (None: no limit), or when the server stops.
        """
        latest = self.latest
        if latest[0] > version or self._closed:
            return latest if latest[0] > version else None
        future = self._loop.create_future()
        self._waiting[future] = version
        try:
            async with asyncio.timeout(seconds):
                return await future
        except TimeoutError:
            return None
        finally:
            del self._waiting[future]

    def close(self) -> None:
        """End all waits, and let no new one begin."""
        self._closed = True
        for future in self._waiting:
            if not future.done():
                future.set_result(None)

    def _on_switch(self) -> None:
        """Note that an event happened. Called on any thread."""
        event = self._store.main_changes
        with self._lock:
            self._pending.append(event)
        with contextlib.suppress(RuntimeError):  # the loop has ended; the store is still used
            self._loop.call_soon_threadsafe(self._reveal)

    def _reveal(self) -> None:
        """Tell of the events that may be revealed; do so again when the next one is durable."""
        count, lsn = self.latest
        for future, version in self._waiting.items():
            if count > version and not future.done():
                future.set_result((count, lsn))
        if count > self._told:
            self._told = count
            for tell in list(self.followers):
                tell(count, lsn)
        if self._pending and self._watcher is None:
            self._watcher = self._loop.create_task(self._watch(self._pending[0][1]))

    async def _watch(self, lsn: int) -> None:
        """Reveal more once `lsn` is durable."""
        try:
            await self._durable(lsn)
        except Exception:  # the flush failed: pending events never happened
            self._pending.clear()
        self._watcher = None
        self._reveal()
