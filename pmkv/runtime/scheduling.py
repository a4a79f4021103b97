"""Taking turns: whoever works long lets those go first who serve, by `step_back` once, `give_way` between kernels and
system calls, and `rest` between stretches of Python, or of operations."""

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

TURN = 0.001  # seconds of Python at most
REST = 0.00005
LONG = 0.001  # seconds that a core is given away: others are busy there all the time
SPARED = 4  # times as long nothing is given away after that: a fifth of what is one's due, at most, goes to them
SLICE = 3_000_000  # ns; who has a shorter one interrupts it. Linux before 6.12 knows no such thing
MOMENT = 100_000  # ns; the shortest there is
SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}  # system calls: glibc has had no function for it until lately
ATTRIBUTES = struct.Struct("=IIQiIQQQ")  # size, policy, flags, nice, priority, runtime, deadline, period
# not `os.sched_yield`, which keeps the interpreter before Python 3.12: others would wait for that, too
_yield: Callable[[], object] = getattr(ctypes.CDLL(None), "sched_yield", lambda: None)  # not everywhere
_not_before = 0.0


def no_yield() -> None:
    """Nothing speaks against it."""


def lower_priority(nice: int) -> None:
    """Let others go before this thread, as far as the system knows how: it need not.

    At once if the scheduler sees to it, else when this thread gives way. Without both, a server or a client that woke
    up beside a checkpoint waited up to 4 ms, and beside a long put until that ended, also where the other core was
    idle. nice: its share, too, is smaller."""
    if platform.system() != "Linux":
        return  # Linux alone has priorities of threads
    nice = max(nice, os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)
    _schedule(os.SCHED_BATCH, nice, SLICE)


def short_slice() -> None:
    """Let this thread, which needs a core for moments and is waited for, have it when it wakes up: as far as the
    system knows how, likewise. Where as many others as there are cores never rest, it waited for the end of a slice
    each time that it woke up."""
    if platform.system() == "Linux" and os.sched_getscheduler(0) == os.SCHED_OTHER:  # else somebody chose otherwise
        _schedule(os.SCHED_OTHER, os.getpriority(os.PRIO_PROCESS, threading.get_native_id()), MOMENT)


def _schedule(policy: int, nice: int, runtime: int) -> None:
    """This thread, if the system lets it. runtime: ns, its slice."""
    if number := SCHED_SETATTR.get(platform.machine()):
        attributes = ATTRIBUTES.pack(ATTRIBUTES.size, policy, 0, nice, 0, runtime, 0, 0)
        ctypes.CDLL(None).syscall(number, 0, attributes, 0)


def yield_cpu() -> None:
    """Whoever waits for this core has it now. The scheduler itself looks every 4 ms, and wakes a server on the core
    where it ran last, even if that is taken and another one is idle.

    Who gives way loses the rest of a slice to others, many times over at a lower priority: not again and again, or
    upkeep would come to a stand beside programs that never rest."""
    global _not_before
    if (begun := time.perf_counter()) >= _not_before:
        _yield()
        took = time.perf_counter() - begun
        if took > LONG:
            _not_before = begun + (1 + SPARED) * took


def yield_gil() -> None:
    """Whoever waits for the interpreter has it now. Letting go of it is not enough: they must have the time to wake
    up and take it."""
    time.sleep(REST)


class GilYielder:
    """For loops in Python: they call `give` every few hundred steps. pause: is called then, too, and raises if the work
    is to be given up; turn: seconds, another length than others'."""

    def __init__(self, pause: Callable[[], None] = no_yield, turn: float | None = None) -> None:
        self._since, self._pause = time.perf_counter(), pause
        self._turn = TURN if turn is None else turn

    def give(self) -> None:
        if time.perf_counter() - self._since > self._turn:
            yield_gil()
            self._pause()
            self._since = time.perf_counter()


class FairShare:
    """Operations of one thread, one behind the other, which rests now and then between two of them.

    Each lets go of the interpreter, for moments too short for others to wake up in; and those who wait ask for it, in
    CPython, only if there was no such moment for a whole switch interval. Beside a thread that never paused, who wrote
    a row, or went back to another version, waited for many of them."""

    def __init__(self) -> None:
        self._since = self._last = 0.0

    def is_long(self) -> bool:
        """An operation ended: has it gone on for as long as CPython, too, lets others wait? A new one begins where
        nothing ended for so long, as they had their time then."""
        now, interval = time.perf_counter(), sys.getswitchinterval()
        if now - self._last > interval:
            self._since = now
        self._last = now
        return now - self._since > interval

    def yield_gil(self) -> None:
        """By who holds no lock."""
        yield_gil()
        self._since = self._last = time.perf_counter()
