"""Worker threads: their end can be waited for, also again after Ctrl-C."""

from __future__ import annotations

import queue
import signal
import time

import pytest

from pmkv.runtime.worker_thread import WorkerThread


class Waiting(WorkerThread):
    def __init__(self) -> None:
        super().__init__("waiting")
        self.told: queue.SimpleQueue[str] = queue.SimpleQueue()

    def work(self) -> None:
        if self.told.get() == "fail":
            raise ZeroDivisionError


def test_an_interrupted_wait_for_the_end_does_not_end_it() -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    thread, before = Waiting(), signal.signal(signal.SIGALRM, interrupt)
    thread.start()
    try:
        for _ in range(2):
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            with pytest.raises(KeyboardInterrupt):
                thread.await_end()
            assert not thread.has_ended
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        thread.told.put("end")
    thread.await_end()
    assert thread.has_ended
    thread.await_end()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_fails_has_ended() -> None:
    thread = Waiting()
    thread.start()
    thread.told.put("fail")
    thread.await_end()
    assert thread.has_ended


def test_a_thread_does_not_wait_for_itself() -> None:
    class Own(Waiting):
        def work(self) -> None:
            self.await_end()
            self.told.put("waited")

    thread = Own()
    thread.start()
    assert thread.told.get(timeout=10) == "waited"
    deadline = time.monotonic() + 10
    while not thread.has_ended and time.monotonic() < deadline:
        time.sleep(0.001)
    assert thread.has_ended
