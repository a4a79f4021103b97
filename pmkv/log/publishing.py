"""Insert a long batch into a memtable while other threads read: all of it is in the log, some of it in the memtable.

A batch must become visible as a whole. A concurrent read is in one of these cases:

1. It reads another layer, or finds no location of the batch: it saw the state before the batch, and goes on.
2. It finds a location of the batch: it may have missed others. It waits until the batch is complete and reads again.
3. It counts or iterates, so that it cannot tell: it takes `entry` before `locks.state`, which waits for the batch.

Each word of a memtable's index is changed by one store, so a concurrent reader finds the old location or the new one.

The publishing thread holds `locks.append`, so there is one batch at a time. `locks.publish` comes before
`locks.state`: a thread that holds `locks.state` never waits for it. A thread that looks up, counts or iterates a table
under `locks.state` therefore holds `locks.append` too, or took the lock by `read`, or after `entry`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np

from ..kernels import location
from ..runtime.locks import StoreLock, StoreLocks

T = TypeVar("T")


class PartialBatchSeen(Exception):
    """A read found some locations of the batch that is being inserted."""


class BatchPublisher:
    """Publishes one long batch at a time. locks: those of the store."""

    def __init__(self, locks: StoreLocks) -> None:
        self._locks = locks
        self._layer: object = None  # the layer whose memtable the batch goes into; None: no batch
        self._frames: list[tuple[int, int]] = []  # offsets of the first and the last row of each frame

    def publish(self, layer: object, frames: list[np.ndarray], insert: Callable[[], None]) -> None:
        """Call `insert`, which inserts a batch into the memtable of `layer` without `locks.state`, and commits it.

        frames: the locations of each frame's rows, in the order of the frame. An `insert` that raises has taken the
        batch back, and called `forget_batch`."""
        mask = location.OFFSET_MASK
        ends = [(int(locations[0] & mask), int(locations[-1] & mask)) for locations in frames]
        with self._locks.publish:
            with self._locks.state:
                self._layer, self._frames = layer, ends
            insert()
            with self._locks.state:  # by no call, on the way into which an exception could come
                self._layer, self._frames = None, []

    def forget_batch(self) -> None:
        """Show everything again, as the batch was taken back. The caller holds `locks.append`."""
        with self._locks.state:
            self._layer, self._frames = None, []

    def check_overlap(self, layer: object, found: np.ndarray) -> None:
        """Raise PartialBatchSeen if locations found under the top layer `layer` belong to the batch.

        The caller holds `locks.state`."""
        if layer is self._layer:
            offsets = found & location.OFFSET_MASK
            if any(((offsets >= first) & (offsets <= last)).any() for first, last in self._frames):
                raise PartialBatchSeen

    def read(self, look_up: Callable[[], T]) -> T:
        """Call `look_up` under `locks.state`; if it saw a part of the batch, call it again when that is complete."""
        if self._locks.state.is_held:
            return look_up()
        with self._locks.state:
            try:
                return look_up()
            except PartialBatchSeen:
                pass
        with self.entry, self._locks.state:
            return look_up()

    @property
    def entry(self) -> StoreLock:
        """The lock to take before `locks.state` while no batch may be under way: `locks.publish`, unless this thread
        holds `locks.state` already."""
        return self._locks.state if self._locks.state.is_held else self._locks.publish
