"""Wait on behalf of writes that have found the pool full, until the cleaner has made room: one wait for all of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pmkv.errors import PmkvError

SPACE_WAIT_S = 10.0  # after which a write is told that the pool is full


class SpaceWait:
    """Waits for room in one store. All methods but `_await_space` run on the loop's thread."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self._threads: dict[bool, ThreadPoolExecutor] = {}  # made when they are needed
        self._moments: dict[bool, asyncio.Future[bool]] = {}  # under way; of writes that free, and of others

    async def attempts(self, frees: bool) -> AsyncIterator[bool]:
        """Yield before each new attempt of a write that has found the pool full: True if it is to be the last one.

        frees: the write makes something dead itself"""
        deadline = time.monotonic() + SPACE_WAIT_S
        while await self._moment(frees) and time.monotonic() < deadline:
            yield False
        yield True

    def _moment(self, frees: bool) -> asyncio.Future[bool]:
        """Return what tells, after a moment in which the cleaner ran, whether there is hope. All writes share it."""
        if frees not in self._moments:
            if frees not in self._threads:
                self._threads[frees] = ThreadPoolExecutor(1, "pmkv-space")
            moment = asyncio.get_running_loop().run_in_executor(self._threads[frees], self._await_space, frees)
            self._moments[frees] = moment
            moment.add_done_callback(lambda _: self._moments.pop(frees, None))
        return self._moments[frees]

    def _await_space(self, frees: bool) -> bool:
        try:
            return bool(self._store.await_space(frees))
        except PmkvError:  # the store was closed, or its log failed: the last attempt says so
            return False

    def close(self) -> None:
        """End the threads once nothing waits any more."""
        for thread in self._threads.values():
            thread.shutdown(wait=False)
