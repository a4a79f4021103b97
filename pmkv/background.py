"""The one background queue: work that may wait, done one piece after another in a thread of its own."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import platform
import queue
import struct
import threading
from collections.abc import Callable

from .errors import PmkvError

# Whoever serves goes first: at once if the scheduler sees to it, else when this thread gives way (`turns`). Without
# both, a server or a client that woke up beside a checkpoint waited up to 4 ms, also where the other core was idle.
NICE = 10
SLICE = 3_000_000  # ns; who has a shorter one interrupts it. Linux before 6.12 knows no such thing
SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}  # system calls: glibc has had no function for it until lately
ATTRIBUTES = struct.Struct("=IIQiIQQQ")  # size, policy, flags, nice, priority, runtime, deadline, period
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
        step_back()
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


def step_back() -> None:
    """Let others go before this thread, as far as the system knows how: it need not."""
    if platform.system() != "Linux":
        return  # Linux alone has priorities of threads
    thread = threading.get_native_id()
    nice = max(NICE, os.getpriority(os.PRIO_PROCESS, thread))
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, thread, nice)
    if number := SCHED_SETATTR.get(platform.machine()):
        batch = ATTRIBUTES.pack(ATTRIBUTES.size, os.SCHED_BATCH, 0, nice, 0, SLICE, 0, 0)
        ctypes.CDLL(None).syscall(number, 0, batch, 0)
