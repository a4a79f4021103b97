"""Who waits for a switch learns of it when it is durable, not before, and whoever does it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from pmkv_server.version_events import VersionEvents
from tests.unit.server.stand import settled, until


class Store:
    """As much of a store as this needs. `switch` is a promote, durable only when `flush` is called."""

    def __init__(self, durability: str = "commit") -> None:
        self.durability, self.durable_lsn, self.lsn = durability, 0, 100
        self.main_changes, self.failed = (0, 0), None
        self.flushed = asyncio.Event()

    @property
    def version(self) -> tuple[int, int]:
        return self.main_changes[0], self.lsn

    def on_switch(self, callback: Callable[[], None]) -> None:
        self._callback = callback

    def switch(self) -> None:
        self.lsn += 1
        self.main_changes = self.main_changes[0] + 1, self.lsn
        self._callback()

    def flush(self) -> None:
        self.durable_lsn = self.lsn
        self.flushed.set()

    async def durable(self, lsn: int) -> None:
        while self.durable_lsn < lsn:
            if self.failed:
                raise self.failed
            self.flushed.clear()
            await self.flushed.wait()


def attached(store: Store) -> VersionEvents:
    events = VersionEvents()
    events.attach(store, asyncio.get_running_loop(), store.durable)
    return events


async def test_it_is_told_when_it_is_durable() -> None:
    store = Store()
    events, told = attached(store), []
    events.followers.add(lambda *switch: told.append(switch))
    waiting = asyncio.ensure_future(events.wait(0, None))
    await settled()
    assert events.waiting == 1
    store.switch()
    await settled()
    assert (events.latest, told, waiting.done()) == ((0, 0), [], False)
    store.flush()
    assert await waiting == (1, 101)
    assert (events.latest, told, events.waiting) == ((1, 101), [(1, 101)], 0)
    assert await events.wait(0, None) == (1, 101), "who comes late waits for nothing"


async def test_each_waits_for_its_own() -> None:
    store = Store()
    events = attached(store)
    waiting = [asyncio.ensure_future(events.wait(version, None)) for version in range(3)]
    await settled()
    for done in ([True, False, False], [True, True, False], [True, True, True]):
        store.switch()
        store.flush()
        await settled()
        assert [one.done() for one in waiting] == done


async def test_what_is_durable_is_told_although_the_next_is_not() -> None:
    """Somebody may promote without a pause: there is always one that is pending."""
    store = Store()
    events = attached(store)
    store.switch()
    store.durable_lsn = store.lsn
    store.switch()
    assert events.latest == (1, 101)
    assert await events.wait(0, 1) == (1, 101)
    waiting = asyncio.ensure_future(events.wait(1, None))
    await settled()
    assert not waiting.done()
    store.flush()
    assert await waiting == (2, 102)


async def test_after_the_time_it_is_none_and_nobody_is_left() -> None:
    events = attached(Store())
    assert await events.wait(0, 0.01) is None
    assert await events.wait(0, 0) is None
    waiting = asyncio.ensure_future(events.wait(0, None))
    await settled()
    waiting.cancel()
    await settled()
    assert events.waiting == 0


async def test_the_end_lets_all_go() -> None:
    events = attached(Store())
    waiting = asyncio.ensure_future(events.wait(0, None))
    await settled()
    events.close()
    assert await waiting is None
    assert await events.wait(0, None) is None


async def test_a_switch_whose_flush_failed_never_happened() -> None:
    store = Store()
    events, told = attached(store), []
    events.followers.add(lambda *switch: told.append(switch))
    store.switch()
    await settled()
    store.failed, store.main_changes = OSError(5, "EIO"), (0, 0)
    store.flushed.set()
    await settled()
    assert (events.latest, told) == ((0, 0), [])
    assert await events.wait(0, 0.01) is None


@pytest.mark.parametrize("durability", ["interval", "none"])
async def test_where_nothing_waits_for_durability_this_does_not(durability: str) -> None:
    store = Store(durability)
    events = attached(store)
    waiting = asyncio.ensure_future(events.wait(0, None))
    await settled()
    store.switch()
    assert await waiting == (1, 101)
    assert events.version == (1, 101)


async def test_the_version_reveals_nothing_pending() -> None:
    store = Store()
    events = attached(store)
    store.durable_lsn = 100
    store.switch()
    assert events.version == (0, 100)
    store.flush()
    assert events.version == (1, 101)


async def test_a_store_that_was_switched_before() -> None:
    store = Store()
    store.main_changes = (7, 90)
    events, told = attached(store), []
    events.followers.add(lambda *switch: told.append(switch))
    assert events.latest == (7, 90)
    assert await events.wait(6, None) == (7, 90)
    store.switch()
    store.flush()
    await until(lambda: told == [(8, 101)])


async def test_threads_switch_at_once() -> None:
    store, lock = Store(), threading.Lock()
    events = attached(store)

    def many() -> None:
        for _ in range(200):
            with lock:
                store.switch()

    threads = [threading.Thread(target=many) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    store.flush()
    assert await events.wait(799, 10) == (800, 900)
    assert events.latest == (800, 900)


def test_the_store_is_used_on_when_the_loop_has_ended() -> None:
    async def begin() -> Store:
        store = Store()
        attached(store)
        return store

    store = asyncio.run(begin())
    store.switch()
    assert store.main_changes == (1, 101)
