"""A batch that is entered while others read: who goes on, and who waits."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from typing import Any

import numpy as np
import pytest

from pmkv.kernels.location import DELETE
from pmkv.log.publishing import BatchPublisher, PartialBatchSeen
from pmkv.runtime.locks import StoreLocks

MINE, OTHER = object(), object()
NEW, OLD = [4096, 4160, 4100, 8192, 4096 | int(DELETE) | 7 << 48], [0, 64, 4095, 4161, 8191, 8193]


def at(*offsets: int) -> np.ndarray:
    return np.array(offsets, np.uint64)


FRAMES = [at(4096 | 5 << 48, 4100, 4160), at(8192 | 9 << 48)]


def elsewhere(call: Callable[[], Any], entering: BatchPublisher) -> tuple[Any, Any]:
    """What it gives in another thread, beside a batch that is entered, and behind it; NotYet: it waits."""
    with ThreadPoolExecutor(1) as pool:
        seen: list[Any] = []

        def enter() -> None:
            seen.append(pool.submit(call))
            try:
                seen.append(seen[0].result(0.2))
            except NotYet:
                seen.append(NotYet)

        entering.publish(MINE, FRAMES, enter)
        return seen[1], seen[0].result(5)


def reader(entering: BatchPublisher, layer: object, *offsets: int) -> Callable[[], Any]:
    times: list[int] = []

    def read() -> int:
        times.append(1)
        entering.check_overlap(layer, at(*offsets))
        return len(times)

    return lambda: entering.read(read)


@pytest.mark.parametrize("offset", NEW)
def test_who_finds_some_of_the_batch_waits_and_reads_again(offset: int) -> None:
    entering = BatchPublisher(StoreLocks())
    assert elsewhere(reader(entering, MINE, 64, offset, 0), entering) == (NotYet, 2)


def test_who_finds_nothing_of_it_goes_on() -> None:
    entering = BatchPublisher(StoreLocks())
    assert elsewhere(reader(entering, MINE, *OLD), entering) == (1, 1)


def test_who_reads_something_else_goes_on() -> None:
    entering = BatchPublisher(StoreLocks())
    assert elsewhere(reader(entering, OTHER, *NEW), entering) == (1, 1)


def test_behind_the_batch_nobody_waits() -> None:
    entering = BatchPublisher(StoreLocks())
    entering.publish(MINE, FRAMES, lambda: None)
    assert reader(entering, MINE, *NEW)() == 1


def test_a_batch_that_was_taken_back_is_over() -> None:
    entering = BatchPublisher(StoreLocks())

    def interrupted() -> None:
        entering.forget_batch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        entering.publish(MINE, FRAMES, interrupted)
    assert reader(entering, MINE, *NEW)() == 1
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(reader(entering, MINE, *NEW)).result(5) == 1


def test_of_several_reads_at_once_all_are_done_again() -> None:
    """The lock was let go in between: the first of them is of another moment than the second."""
    entering = BatchPublisher(StoreLocks())
    first, second = reader(entering, OTHER, *NEW), reader(entering, MINE, *NEW)
    assert elsewhere(lambda: entering.read(lambda: (first(), second())), entering) == (NotYet, (2, 2))


def test_who_counts_waits_for_the_end() -> None:
    entering = BatchPublisher(StoreLocks())

    def count() -> bool:
        with entering.entry, entering._locks.state:
            return entering._locks.state.is_held

    assert elsewhere(count, entering) == (NotYet, True)


def test_who_has_the_lock_never_asks_for_a_turn() -> None:
    """Somebody who waits for the lock may have it."""
    locks = StoreLocks()
    lock, entering = locks.state, BatchPublisher(locks)
    waits = threading.Event()

    def other() -> None:
        with locks.publish:
            waits.set()
            with lock:
                pass

    thread = threading.Thread(target=other)
    with lock:
        thread.start()
        assert waits.wait(5)
        with entering.entry, lock:
            pass
        with pytest.raises(PartialBatchSeen):  # for whoever took the lock first
            entering._layer, entering._frames = MINE, [(4096, 4160)]
            reader(entering, MINE, *NEW)()
    thread.join(5)
    assert not thread.is_alive()
