"""Thread scheduling: how long-running threads let short, waited-for ones go first.

`lower_priority` and `short_slice` are called once a thread, `yield_cpu` between kernels and system calls, and
`yield_gil` between stretches of Python. All of it is an optimisation of latency; correctness never depends on it.

Set the environment variable PMKV_SCHED=off before pmkv is imported to switch off everything that asks the operating
system's scheduler for something: `lower_priority`, `short_slice` and `yield_cpu` then do nothing at all.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import struct
import sys
import threading
import time
from collections.abc import Callable

IS_ENABLED = os.environ.get("PMKV_SCHED") != "off"
MAX_TURN_S = 0.001  # seconds of Python before the GIL is yielded
GIL_YIELD_S = 0.00005  # seconds of sleep, enough for another thread to wake up and take the GIL
LONG_YIELD_S = 0.001  # a yield of the core that took longer went to threads that never rest
YIELD_BACKOFF_RATIO = 4  # after a long yield, no other one for this many times its length: a fifth of the time at most
LONG_SLICE_NS = 3_000_000  # slice of background work: a thread with a shorter one interrupts it (Linux 6.12 or later)
SHORT_SLICE_NS = 100_000  # slice of a thread that is waited for; the shortest that Linux grants
SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}  # system call numbers: glibc has had no wrapper until lately
ATTRIBUTES = struct.Struct("=IIQiIQQQ")  # size, policy, flags, nice, priority, runtime, deadline, period
# Not `os.sched_yield`, which keeps the GIL before Python 3.12: other threads would wait for that, too.
_yield: Callable[[], object] = getattr(ctypes.CDLL(None), "sched_yield", lambda: None)  # not on every system
_not_before = 0.0  # time.perf_counter() before which yield_cpu does nothing


def no_yield() -> None:
    """Do nothing, where a caller may pass a function that yields."""


def lower_priority(nice: int) -> None:
    """Make the calling thread a batch thread with at least this nice value, as far as the system allows.

    Without it, a server or client that woke up during a checkpoint waited up to 4 ms, and during a long put until the
    put ended, even where the other core was idle."""
    if not IS_ENABLED or platform.system() != "Linux":
        return  # only Linux has priorities of threads
    nice = max(nice, os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)
    _schedule(os.SCHED_BATCH, nice, LONG_SLICE_NS)


def short_slice() -> None:
    """Give the calling thread the shortest slice, so that it runs as soon as it wakes up, as far as the system allows.

    For threads that need a core briefly while others wait for them. Without it, such a thread waited for the end of
    another one's slice at each wake-up, if as many threads as cores never rested. A policy that somebody has chosen
    stays."""
    if IS_ENABLED and platform.system() == "Linux" and os.sched_getscheduler(0) == os.SCHED_OTHER:
        _schedule(os.SCHED_OTHER, os.getpriority(os.PRIO_PROCESS, threading.get_native_id()), SHORT_SLICE_NS)


def _schedule(policy: int, nice: int, slice_ns: int) -> None:
    """Set policy, nice value and slice of the calling thread; a refusal is ignored."""
    if number := SCHED_SETATTR.get(platform.machine()):
        attributes = ATTRIBUTES.pack(ATTRIBUTES.size, policy, 0, nice, 0, slice_ns, 0, 0)
        ctypes.CDLL(None).syscall(number, 0, attributes, 0)


def yield_cpu() -> None:
    """Give the core to a thread that waits for it, unless recent yields cost too much.

    The kernel itself looks only every 4 ms, and wakes a server on the core where it ran last, even if that core is
    taken and another one is idle. A thread that yields loses the rest of its slice, many slices at a low priority: so
    after a long yield it makes none for a while, or checkpoints would stall while other programs never rest."""
    global _not_before
    if IS_ENABLED and (begun := time.perf_counter()) >= _not_before:
        _yield()
        took = time.perf_counter() - begun
        if took > LONG_YIELD_S:
            _not_before = begun + (1 + YIELD_BACKOFF_RATIO) * took


def yield_gil() -> None:
    """Let other threads take the GIL. Releasing it is not enough: they need the time to wake up."""
    time.sleep(GIL_YIELD_S)


class GilYielder:
    """Yields the GIL in loops of Python, which call `give` every few hundred steps.

    pause: called after each yield; it raises to give the work up. turn: seconds between yields, None: MAX_TURN_S."""

    def __init__(self, pause: Callable[[], None] = no_yield, turn: float | None = None) -> None:
        self._since, self._pause = time.perf_counter(), pause
        self._turn = MAX_TURN_S if turn is None else turn

    def give(self) -> None:
        """Yield the GIL if this turn has lasted long enough."""
        if time.perf_counter() - self._since > self._turn:
            yield_gil()
            self._pause()
            self._since = time.perf_counter()


class FairShare:
    """Tells one thread when to yield the GIL between two operations of a long series.

    Each operation releases the GIL, but for too short a time for others to wake up; and CPython lets waiting threads
    ask for the GIL only if it was not released for a whole switch interval. Without this, a thread that wrote one row
    waited for many operations of a thread that never paused."""

    def __init__(self) -> None:
        self._since = self._last = 0.0

    def is_long(self) -> bool:
        """Note the end of an operation; return True if the series has lasted longer than CPython's switch interval.

        A new series begins after an interval in which no operation ended: other threads had their time then."""
        now, interval = time.perf_counter(), sys.getswitchinterval()
        if now - self._last > interval:
            self._since = now
        self._last = now
        return now - self._since > interval

    def yield_gil(self) -> None:
        """Yield the GIL and begin a new series. The caller holds no lock."""
        yield_gil()
        self._since = self._last = time.perf_counter()
