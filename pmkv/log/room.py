"""Let writes that find the pool full wait until the cleaner has made room."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from ..errors import FullError
from .log import Log

FULL_WAIT_S = 10.0  # a writer waits so long for the cleaner, then it is told that the pool is full
T = TypeVar("T")


def with_room(log: Log, write: Callable[[], T], frees: bool = False) -> T:
    """Call `write`; if it finds the pool full, call it again when the cleaner has made room. Return its result.

    `write` takes no harm from being called again after a FullError. frees: it makes something dead, so that room may
    come although the cleaner has found nothing to gain. FullError: no room came, or the caller may not wait."""
    deadline = None
    while True:
        try:
            return write()
        except FullError as error:
            deadline = deadline or time.monotonic() + FULL_WAIT_S
            if log.caller_holds_lock:
                raise
            if not log.may_await_space or time.monotonic() > deadline or not log.await_space(frees):
                report = log.hooks.what_pins_most
                raise FullError(f"{error}{report() if report is not None else ''}") from None
