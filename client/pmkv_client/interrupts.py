"""Ctrl-C within a call: the connection is closed, as the reply that nobody has read would answer the next call.

redis-py closes it where the interrupt comes while it sends or reads, and gives it back to its pool where that comes in
between.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

from redis.client import Pipeline
from redis.exceptions import RedisError

T = TypeVar("T")


def whole(connection: Any, exchange: Callable[[], T]) -> T:
    """Call `exchange`, which sends a command and reads its reply; close the connection if it does not end so."""
    try:
        return exchange()
    except RedisError:  # the reply was read, or redis-py has closed the connection
        raise
    except BaseException:
        connection.disconnect()
        raise


class WholePipeline(Pipeline):
    """A pipeline of redis-py that closes its connection if an interrupt ends it."""

    def reset(self) -> None:
        """Give the connection back, closed if anything but an error of redis-py is on its way."""
        error = sys.exc_info()[1]
        if self.connection is not None and error is not None and not isinstance(error, RedisError):
            self.connection.disconnect()
        super().reset()
