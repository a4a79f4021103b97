"""The wait for room in a full pool: when it ends, and who shares it."""

from __future__ import annotations

import asyncio
import threading

import pytest

from pmkv.errors import ClosedError
from pmkv_server import space_wait
from pmkv_server.space_wait import SpaceWait


class FakeStore:
    """A store whose cleaner needs so many moments."""

    def __init__(self, hopes: list[bool]) -> None:
        self.hopes, self.asked, self.go = hopes, list[bool](), threading.Event()
        self.go.set()

    def await_space(self, frees: bool) -> bool:
        self.asked.append(frees)
        assert self.go.wait(10)
        if not self.hopes:
            raise ClosedError("the store is closed")
        return self.hopes.pop(0)


async def attempts(wait: SpaceWait, frees: bool = False, most: int = 10) -> list[bool]:
    found = []
    async for is_last in wait.attempts(frees):
        found.append(is_last)
        if len(found) == most:
            break
    return found


async def test_without_hope_there_is_one_attempt_more() -> None:
    store = FakeStore([True, True, False])
    wait = SpaceWait(store)
    assert await attempts(wait) == [False, False, True] and store.asked == [False] * 3
    wait.close()


async def test_a_closed_store_ends_the_wait() -> None:
    assert await attempts(SpaceWait(FakeStore([True]))) == [False, True]


async def test_after_a_while_there_is_one_attempt_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(space_wait, "SPACE_WAIT_S", -1.0)
    assert await attempts(SpaceWait(FakeStore([True] * 9))) == [True]


async def test_all_who_wait_share_a_moment_and_those_that_free_another() -> None:
    store = FakeStore([True] * 9)
    store.go.clear()
    wait = SpaceWait(store)
    tasks = [asyncio.create_task(attempts(wait, frees, most=1)) for frees in (False, True, False, True, False)]
    await asyncio.sleep(0.01)
    store.go.set()
    assert await asyncio.gather(*tasks) == [[False]] * 5
    assert sorted(store.asked) == [False, True]
    wait.close()
