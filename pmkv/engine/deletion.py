"""Deletes of any size, which a full pool takes too: at once where there is room, else in pieces.

Between pieces the cleaner gives back the space of what they deleted.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial

import numpy as np

from ..errors import FullError
from ..log.format import MAX_BATCH
from ..log.log import Log
from ..log.room import with_room

PIECES_OF_SEGMENT = 2  # pieces that a segment holds, at least


def cut(sizes: np.ndarray, limit: int) -> list[tuple[int, int]]:
    """Return the bounds of consecutive pieces of at most about `limit` bytes each, (start, stop) by position."""
    pieces = (np.cumsum(sizes) - 1) // limit
    starts = [0, *(np.flatnonzero(np.diff(pieces)) + 1).tolist(), sizes.size]
    return [(start, stop) for start, stop in itertools.pairwise(starts) if start < stop]


def delete_in_pieces(log: Log, sizes: np.ndarray, delete: Callable[[int, int], int]) -> int:
    """Call `delete` for all positions, and return the sum of its results once all of it is durable.

    sizes: bytes that each position takes in the log; delete: deletes positions start to stop and returns how many there
    were, in one atomic write as long as that is no longer than a batch may be."""
    total = newest = 0

    def write(start: int, stop: int) -> None:
        nonlocal total, newest
        count, lsn = log.exclusively(partial(delete, start, stop))
        total, newest = total + count, max(newest, lsn)

    for start, stop in cut(sizes, MAX_BATCH // 2):
        try:
            write(start, stop)
        except FullError:
            if not log.may_await_space:
                raise
            for first, last in cut(sizes[start:stop], max(1, log.pool.segment_size // PIECES_OF_SEGMENT)):
                with_room(log, partial(write, start + first, start + last), frees=True)
    log.wait_durable(newest)
    return total
