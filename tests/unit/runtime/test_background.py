"""The background queue: in order, one at a time, past errors, and quick to end."""

from __future__ import annotations

import logging
import os
import platform
import queue
import sys
import threading

import pytest

from pmkv.errors import FullError
from pmkv.runtime.background import NICE, Background
from pmkv.runtime.scheduling import SCHED_SETATTR

PATIENCE = 5


@pytest.fixture
def background():
    background = Background()
    background.start()
    yield background
    if background.is_alive():
        background.stop()


def test_work_is_done_in_order_in_a_thread_of_its_own(background: Background) -> None:
    done: list[tuple[int, str]] = []
    last = threading.Event()
    for number in range(5):
        background.submit(lambda number=number: done.append((number, threading.current_thread().name)))
    background.submit(last.set)
    assert last.wait(PATIENCE)
    assert done == [(number, "pmkv-background") for number in range(5)]


@pytest.mark.parametrize("error", [FullError("no room"), OSError(5, "input/output error")], ids=repr)
def test_an_error_is_logged_and_work_goes_on(
    background: Background, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise error

    last = threading.Event()
    with caplog.at_level(logging.WARNING, "pmkv"):
        background.submit(fail)
        background.submit(last.set)
        assert last.wait(PATIENCE)
    assert str(error) in caplog.text


def test_stopping_waits_for_the_piece_at_hand_and_forgets_the_rest(background: Background) -> None:
    begun, go_on, done = threading.Event(), threading.Event(), []

    def piece() -> None:
        begun.set()
        go_on.wait(PATIENCE)
        done.append("at hand")

    background.submit(piece)
    background.submit(lambda: done.append("not begun"))
    assert begun.wait(PATIENCE)
    threading.Timer(0.05, go_on.set).start()
    background.stop()
    assert done == ["at hand"]
    assert not background.is_alive()


def test_work_that_submits_itself_again_ends_too(background: Background) -> None:
    begun = threading.Event()

    def again() -> None:
        begun.set()
        background.submit(again)
        background.submit(again)
        background.catch_up()

    background.submit(again)
    assert begun.wait(PATIENCE)
    background.stop()
    assert not background.is_alive()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="threads have priorities of their own on Linux")
def test_it_leaves_the_processor_to_who_serves(background: Background) -> None:
    found: queue.SimpleQueue[int] = queue.SimpleQueue()
    background.submit(lambda: found.put(os.getpriority(os.PRIO_PROCESS, threading.get_native_id())))
    background.submit(lambda: found.put(os.sched_getscheduler(0)))
    ours = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    assert found.get(timeout=PATIENCE) >= max(NICE, ours)
    if platform.machine() in SCHED_SETATTR:
        assert found.get(timeout=PATIENCE) == os.SCHED_BATCH != os.sched_getscheduler(0)


def test_work_for_later_waits_for_its_time_and_not_beyond_the_end() -> None:
    background, done = Background(), queue.SimpleQueue[str]()
    background.start()
    background.submit_later(lambda: done.put("later"), 0.05)
    background.submit_later(lambda: done.put("never"), 0.0)  # one waits already
    background.submit(lambda: done.put("now"))
    assert [done.get(timeout=10) for _ in range(2)] == ["now", "later"]
    background.submit_later(lambda: done.put("too late"), 100)
    background.stop()
    assert background.has_ended and done.empty()
