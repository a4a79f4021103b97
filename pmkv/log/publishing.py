"""A long batch that is entered into an index while others read: all of it stands in the log, some of it in the index.

Who reads meanwhile, and finds nothing of the batch, has what was there before it, and goes on; who finds some of it
reads again when all of it is there. So does who counts or walks, as they cannot tell. Each word of an index is changed
by one store, so that a reader beside finds what it had or what it gets.

Assumes: who enters holds `writing`, so it is one batch at a time. `turn` comes before `lock`, and is never asked for by
who has that. So who looks a table up, counts it or walks it under the lock holds `writing`, too, or took the lock by
`at_once` or `over`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np

from ..kernels import location
from ..runtime.locks import StoreLocks

T = TypeVar("T")


class PartialBatchSeen(Exception):
    """Some of what was found is of the batch that is being entered."""


class BatchPublisher:
    """Publishes one long batch at a time. locks: the store's."""

    def __init__(self, locks: StoreLocks) -> None:
        self._locks = locks
        self._layer: object = None  # into whose index
        self._frames: list[tuple[int, int]] = []  # offsets of the first and the last row of each

    @contextlib.contextmanager
    def into(self, layer: object, frames: list[np.ndarray]) -> Iterator[None]:
        """Enter rows meanwhile, without the lock. frames: locations of those of each frame, in its order."""
        mask = location.OFFSET_MASK
        ends = [(int(locations[0] & mask), int(locations[-1] & mask)) for locations in frames]
        with self._locks.publish:
            with self._locks.state:
                self._layer, self._frames = layer, ends
            try:
                yield
            finally:
                with self._locks.state:
                    self._layer, self._frames = None, []

    def beware(self, layer: object, found: np.ndarray) -> None:
        """Whoever found these locations, and has this layer on top, may have met the batch. Under the lock."""
        if layer is self._layer:
            offsets = found & location.OFFSET_MASK
            if any(((offsets >= first) & (offsets <= last)).any() for first, last in self._frames):
                raise PartialBatchSeen

    def at_once(self, read: Callable[[], T]) -> T:
        """Read under the lock, and if that met the batch once more when it is entered."""
        if self._locks.state.is_held:
            return read()
        with self._locks.state:
            try:
                return read()
            except PartialBatchSeen:
                pass
        with self.over():
            return read()

    @contextlib.contextmanager
    def over(self) -> Iterator[None]:
        """The lock, while nothing is being entered."""
        if self._locks.state.is_held:
            yield
            return
        with self._locks.publish, self._locks.state:
            self._layer, self._frames = None, []  # set still, if who entered was interrupted once more at the end
            yield
