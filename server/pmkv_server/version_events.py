"""Switches: promotions, rollbacks and undos of `main`. Whoever waits for the next learns of it once it is durable.

The store says from whatever thread that there was one, perhaps before it is durable. Until `attach`, nothing has
happened yet.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

VersionEvent = tuple[int, int]  # how many there were with this one, and its LSN


class VersionEvents:
    """How many there were, who waits for more, and who wants to be told of each."""

    def __init__(self) -> None:
        self.followers: set[Callable[[int, int], None]] = set()
        self._known: VersionEvent = (0, 0)  # the last that may be revealed
        self._told = 0  # the last that the followers know
        self._pending: deque[VersionEvent] = deque()
        self._lock = threading.Lock()  # of what was known and is pending
        self._waiting: dict[asyncio.Future[VersionEvent | None], int] = {}
        self._watcher: asyncio.Task[None] | None = None  # waits until what is pending is durable
        self._closed = False

    def attach(self, store: Any, loop: asyncio.AbstractEventLoop, durable: Callable[[int], Awaitable[None]]) -> None:
        """Follow this store, whose switches so far are durable; `durable(lsn)` returns once that is."""
        self._store, self._loop, self._durable = store, loop, durable
        self._known = store.switches
        self._told = self._known[0]
        store.on_switch(self._on_switch)

    @property
    def latest(self) -> VersionEvent:
        """The last one that may be revealed."""
        with self._lock:
            while self._pending and self._may_be_revealed(self._pending[0]):
                self._known = max(self._known, self._pending.popleft())
            return self._known

    @property
    def version(self) -> VersionEvent:
        """How many there were, and the LSN of the last write of all, as far as these may be revealed."""
        durable = self._store.durability == "commit"
        return self.latest[0], self._store.durable_lsn if durable else self._store.version[1]

    def _may_be_revealed(self, switch: VersionEvent) -> bool:
        return self._store.durability != "commit" or switch[1] <= self._store.durable_lsn

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    async def wait(self, version: int, seconds: float | None) -> VersionEvent | None:
        """The last switch, as soon as there were more than `version`; None after so many seconds (None: never)."""
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
        """Nobody waits any longer."""
        self._closed = True
        for future in self._waiting:
            if not future.done():
                future.set_result(None)

    def _on_switch(self) -> None:
        """From any thread."""
        switch = self._store.switches
        with self._lock:
            self._pending.append(switch)
        with contextlib.suppress(RuntimeError):  # the loop has ended, and the store is still used
            self._loop.call_soon_threadsafe(self._look)

    def _look(self) -> None:
        """Tell what may be told, and look again when the next may be."""
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
        try:
            await self._durable(lsn)
        except Exception:  # the flush failed: what was pending never happened
            self._pending.clear()
        self._watcher = None
        self._look()
