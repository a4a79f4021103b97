"""Taking turns: whoever works long lets those go first who serve, by `give_way` between kernels and system calls, and
by `rest` between stretches of Python."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

TURN = 0.001  # seconds of Python at most
REST = 0.00005
_yield: Callable[[], object] = getattr(os, "sched_yield", lambda: None)  # not everywhere


def go_on() -> None:
    """Nothing speaks against it."""


def give_way() -> None:
    """Whoever waits for this core has it now. The scheduler itself looks every 4 ms, and wakes a server on the core
    where it ran last, even if that is taken and another one is idle."""
    _yield()


def rest() -> None:
    """Whoever waits for the interpreter has it now. Letting go of it is not enough: they must have the time to wake
    up and take it."""
    time.sleep(REST)


class Turns:
    """For loops in Python: they call `give` every few hundred steps. pause: is called then, too, and raises if the work
    is to be given up."""

    def __init__(self, pause: Callable[[], None] = go_on) -> None:
        self._since, self._pause = time.perf_counter(), pause

    def give(self) -> None:
        if time.perf_counter() - self._since > TURN:
            rest()
            self._pause()
            self._since = time.perf_counter()
