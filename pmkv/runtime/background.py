"""The one background queue: work that may wait, done one piece after another in a thread of its own."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Callable

from ..errors import PmkvError
from .scheduling import lower_priority

NICE = 10  # a tenth of the share of who serves, where both want a core
log = logging.getLogger("pmkv")


class Background(threading.Thread):
    """Starts with `start`, ends with `stop` after the piece at hand."""

    def __init__(self) -> None:
        super().__init__(name="pmkv-background", daemon=True)
        self._work: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()

    def submit(self, work: Callable[[], object]) -> None:
        """Do this some time."""
        self._work.put(work)

    def catch_up(self) -> None:
        """Within a long piece of work, now and then: do what others have submitted meanwhile."""
        with contextlib.suppress(queue.Empty):
            while True:
                work = self._work.get_nowait()
                if work is None:  # the end is near, and this piece is the last
                    self._work.put(None)
                    return
                self._do(work)

    def stop(self) -> None:
        """Forget what has not begun."""
        with contextlib.suppress(queue.Empty):  # the thread may be quicker
            while True:
                self._work.get_nowait()
        self._work.put(None)
        self.join()

    def run(self) -> None:
        lower_priority(NICE)
        while (work := self._work.get()) is not None:
            self._do(work)

    @staticmethod
    def _do(work: Callable[[], object]) -> None:
        try:
            work()
        except (PmkvError, OSError) as error:
            # whoever needs the result does the work itself, and gets the error then
            log.warning("background work failed: %s", error)
        except Exception:  # a mistake of ours; the thread has other work
            log.exception("background work failed")
