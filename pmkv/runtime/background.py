"""The background thread of a store: it runs submitted work, one piece after another."""

from __future__ import annotations

import contextlib
import logging
import queue
import time
from collections.abc import Callable

from ..errors import PmkvError
from .scheduling import lower_priority
from .worker_thread import WorkerThread

NICE = 10  # a tenth of a serving thread's share of a core that both want
log = logging.getLogger("pmkv")


class Background(WorkerThread):
    """Runs submitted functions at low priority, from `start` to `stop`."""

    def __init__(self) -> None:
        super().__init__("pmkv-background")
        self._work: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._is_ending = False
        self._later: tuple[float, Callable[[], object]] | None = None  # when (monotonic clock), and what

    def submit(self, work: Callable[[], object]) -> None:
        """Queue a function, which runs once the earlier ones have ended; drop it when `stop` was called."""
        if not self._is_ending:  # else work that submits itself again would keep the end away for ever
            self._work.put(work)

    def submit_later(self, work: Callable[[], object], seconds: float) -> None:
        """Run a function in so many seconds, unless another one waits for its time already. No threading.Timer, whose
        lock Ctrl-C may leave taken."""
        if self._later is None:
            self._later = time.monotonic() + seconds, work
            self.submit(lambda: None)  # the thread looks when it must wake up

    def catch_up(self) -> None:
        """Run what was submitted meanwhile; called by long work now and then."""
        with contextlib.suppress(queue.Empty):
            while True:
                work = self._work.get_nowait()
                if work is None:  # the end is near, and this piece is the last
                    self._work.put(None)
                    return
                self._do(work)

    def stop(self) -> None:
        """Drop queued work, and wait until the function that runs has ended."""
        self._is_ending = True
        with contextlib.suppress(queue.Empty):  # the thread may be quicker
            while True:
                self._work.get_nowait()
        self._work.put(None)
        self.await_end()

    def work(self) -> None:
        """Run what is submitted, until `stop`."""
        lower_priority(NICE)
        while (work := self._next()) is not None:
            self._do(work)

    def _next(self) -> Callable[[], object] | None:
        """Wait for the next function; None at the end."""
        if self._later is None:
            return self._work.get()
        at, work = self._later
        try:
            return self._work.get(timeout=max(0.0, at - time.monotonic()))
        except queue.Empty:
            self._later = None
            return work

    @staticmethod
    def _do(work: Callable[[], object]) -> None:
        try:
            work()
        except (PmkvError, OSError) as error:
            # a thread that needs the result does the work itself, and gets the error then
            log.warning("background work failed: %s", error)
        except Exception:  # a mistake of ours; the thread has other work
            log.exception("background work failed")
