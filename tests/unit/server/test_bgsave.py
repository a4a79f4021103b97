"""Checkpoints that clients ask for: one at a time, and what became of the last."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import pytest

from pmkv.errors import FullError
from pmkv_server.bgsave import BackgroundSave, saved_at


class Store:
    """Its checkpoints wait until they may, and fail if they shall."""

    def __init__(self) -> None:
        self.go, self.error, self.taken = threading.Event(), None, 0

    def checkpoint(self) -> None:
        assert self.go.wait(10)
        if self.error:
            raise self.error
        self.taken += 1


def ended(saving: BackgroundSave) -> bool:
    while saving.is_under_way:
        time.sleep(0.001)
    return True


def test_one_at_a_time() -> None:
    saving, store = BackgroundSave(), Store()
    assert (saving.is_under_way, saving.seconds, saving.last_seconds) == (False, -1, -1)
    assert saving.begin(store) and saving.is_under_way and saving.seconds == 0
    assert not saving.begin(store) and not saving.save(store)
    store.go.set()
    assert ended(saving) and saving.save(store) and store.taken == 2
    assert (saving.is_under_way, saving.seconds, saving.last_seconds, saving.failed) == (False, -1, 0, False)


def test_a_failure_is_kept_until_the_next_success(caplog: pytest.LogCaptureFixture) -> None:
    saving, store = BackgroundSave(), Store()
    store.go.set()
    store.error = FullError("no room")
    assert saving.begin(store) and ended(saving) and saving.failed
    assert "BGSAVE failed: no room" in caplog.text
    with pytest.raises(FullError):
        saving.save(store)
    store.error = None
    assert saving.failed and saving.save(store) and not saving.failed


@pytest.mark.parametrize(("checkpointed_at", "seconds"), [(0, 1000), (2_345_678, 2345)])
def test_the_last_one_or_the_start(checkpointed_at: int, seconds: int) -> None:
    server = SimpleNamespace(
        stats=SimpleNamespace(started=1000.5), store=SimpleNamespace(checkpointed_at=checkpointed_at)
    )
    assert saved_at(server) == seconds
