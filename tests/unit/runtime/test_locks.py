"""The locks of a store: reentrant, and able to tell who holds them."""

from __future__ import annotations

import threading

import pytest

from pmkv.runtime.locks import StoreLock, StoreLocks


def test_a_lock_knows_the_thread_that_holds_it() -> None:
    lock = StoreLock()
    assert not lock.is_held
    with pytest.raises(AssertionError, match="must hold"):
        lock.assert_held()
    seen: list[bool] = []
    with lock, lock:  # reentrant
        lock.assert_held()
        other = threading.Thread(target=lambda: seen.append(lock.is_held))
        other.start()
        other.join()
        assert lock.is_held
    assert seen == [False]
    assert not lock.is_held


def test_a_store_has_three_locks() -> None:
    locks = StoreLocks()
    assert len({locks.append, locks.publish, locks.state}) == 3
